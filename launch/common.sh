# shellcheck shell=bash
# What the launchers share; it is sourced, never run.
set -euo pipefail

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
    echo "error: bash 4.4 or newer is needed, this is $BASH_VERSION" >&2
    exit 2
fi

dry_run=
exec 3>&1 # where a dry run prints, also from inside of $(...)

# Wrong use: one line, exit code 2.
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# The world refused: one line, exit code 1.
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

note() {
    [[ -n $dry_run ]] || printf '%s: %s\n' "${0##*/}" "$*" >&2
}

# Prints the comment at the top of the script, which is its manual.
usage() {
    sed -n -e '1d' -e '/^#SBATCH/d' -e '/^#/!q' -e 's/^# \{0,1\}//p' "$0"
    exit 0
}

# Prints the arguments as one line that a shell reads back as they are.
quoted() {
    local word line=
    for word in "$@"; do
        if [[ ! $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
            word="'${word//\'/\'\\\'\'}'"
        fi
        line+=${line:+ }$word
    done
    printf '%s\n' "$line"
}

# Runs a command, or in a dry run prints it. No command may read what is typed at the launcher.
run() {
    if [[ -n $dry_run ]]; then quoted "$@" >&3; else "$@" </dev/null; fi
}

# Like run, for a command whose answer decides what comes next: ask ASSUMED COMMAND..., where
# ASSUMED is what a dry run takes for the answer.
ask() {
    local assumed=$1
    shift
    run "$@" || return
    [[ -z $dry_run || -z $assumed ]] || printf '%s\n' "$assumed"
}

# The words of a training command: everything from -m on.
require_command() {
    local word
    (($# >= 2)) || fail "no command: end with what python shall run, such as" \
        "-m maskgit_jax.train --config=configs/maskgit.py:imagenet256"
    for word in "$@"; do # who asks for a dry run must not get a real one
        [[ $word != --dry-run ]] || fail "--dry-run stands behind -m; it belongs before"
    done
}

require_number() { # OPTION VALUE
    [[ $2 =~ ^[0-9]+$ ]] || fail "$1 is '$2'; it is a whole number"
}
