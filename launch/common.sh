# shellcheck shell=bash
# Functions of all launchers; sourced, never run.
set -euo pipefail

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
    echo "error: bash 4.4 or newer is needed, this is $BASH_VERSION" >&2
    exit 2
fi

dry_run=
exec 3>&1 # a dry run prints here, also from inside $(...)

# Invalid arguments: one line, exit code 2.
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# Any other failure: one line, exit code 1.
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

note() {
    [[ -n $dry_run ]] || printf '%s: %s\n' "${0##*/}" "$*" >&2
}

# Prints the comment at the top of the script, its help text.
usage() {
    sed -n -e '1d' -e '/^#SBATCH/d' -e '/^#/!q' -e 's/^# \{0,1\}//p' "$0"
    exit 0
}

# Prints the arguments as one line that a shell parses back into the same arguments.
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

# Runs a command, or prints it in a dry run. No command may read the stdin of the launcher.
run() {
    if [[ -n $dry_run ]]; then quoted "$@" >&3; else "$@" </dev/null; fi
}

# Like run, for a command whose output decides the next step: ask ASSUMED COMMAND..., where ASSUMED
# is the output that a dry run assumes.
ask() {
    local assumed=$1
    shift
    run "$@" || return
    [[ -z $dry_run || -z $assumed ]] || printf '%s\n' "$assumed"
}

# Checks the arguments of a training command: everything from -m on.
require_command() {
    local word
    (($# >= 2)) || fail "no command: end with the arguments of python, such as" \
        "-m maskgit_jax.train --config=configs/maskgit.py:imagenet256"
    for word in "$@"; do # a misplaced --dry-run must not start a real run
        [[ $word != --dry-run ]] || fail "--dry-run is after -m; put it before"
    done
}

require_number() { # OPTION VALUE
    [[ $2 =~ ^[0-9]+$ ]] || fail "$1 is '$2'; it must be a whole number"
}
