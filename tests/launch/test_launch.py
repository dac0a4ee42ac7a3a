"""The launchers, with stand-ins for the programs of clouds and clusters that they call."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])

# Logs its arguments and prints the next line of its answers, of which the last one repeats;
# "!7" is exit code 7, and "|" a line break.
STAND_IN = r"""#!/bin/bash
{ printf '%s\x1f' "${0##*/}" "$@"; printf '\n'; } >>"$STAND_INS/log"
key=${0##*/}
[[ $key != gcloud ]] || key=$3-$4
[[ $* =~ tpu_worker.sh\ ([a-z]+) ]] && key=$key-${BASH_REMATCH[1]}
answers=$STAND_INS/answers/$key
answer=
if [[ -e $answers ]]; then
    read -r answer <"$answers"
    (($(wc -l <"$answers") == 1)) || sed -i 1d "$answers"
fi
if [[ $answer == wait ]]; then
    echo $$ >"$STAND_INS/waiting"
    trap 'exit 0' TERM
    while :; do sleep 0.02; done
fi
[[ $answer != !* ]] || exit "${answer#!}"
printf '%s' "${answer//|/$'\n'}"
"""
NAMES = ["gcloud", "xpk", "kubectl", "git", "tar", "mkdir", "rm", "srun", "scontrol", "python"]
# Signals the waiting stand-in of srun.
SCANCEL = STAND_IN + 'kill -TERM "$(<"$STAND_INS/waiting")"\n'


class StandIns:
    """A PATH with stand-ins before the usual programs."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "answers").mkdir()
        for name in NAMES:
            self.add(name, STAND_IN)
        self.add("scancel", SCANCEL)
        self.environment = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(folder),
            "STAND_INS": str(folder),
        }

    def add(self, name: str, text: str) -> None:
        """Puts a program on the PATH."""
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def answer(self, **answers: Sequence[str]) -> None:
        """Sets the answers of programs, call after call."""
        for key, lines in answers.items():
            text = "".join(f"{line}\n" for line in lines)
            (self.folder / "answers" / key.replace("_", "-")).write_text(text)

    def start(self, script: str, *words: str, **environment: str) -> subprocess.Popen:
        """Starts a launcher."""
        return subprocess.Popen(
            ["bash", LAUNCH / script, *words],
            env={**self.environment, **environment},
            cwd=LAUNCH.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, *words: str, **environment: str) -> subprocess.CompletedProcess:
        """Runs a launcher to its end."""
        process = self.start(script, *words, **environment)
        out, err = process.communicate(timeout=10)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def log(self) -> list[list[str]]:
        """Returns the calls of all stand-ins so far."""
        path = self.folder / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split("\x1f")[:-1] for line in lines]

    def steps(self) -> list[str]:
        """Returns the verbs of the gcloud calls, without queries of the state."""
        short = []
        for call in self.log():
            if call[0] == "gcloud":
                worker = [word for word in call if word.startswith("--command=")]
                verb = worker[0].rpartition("tpu_worker.sh ")[2].split()[0] if worker else call[4]
                short.append(verb)
        return [verb for verb in short if verb not in ("list", "status")]


@pytest.fixture
def stand_ins(tmp_path: Path) -> StandIns:
    return StandIns(tmp_path)


SLICE = ["--name=pod", "--zone=z", "--project=p"]
COMMAND = ["-m", "maskgit_jax.train", "--workdir=/mnt/runs/a b", "--config.note=it's 5 $"]
RUN = ["run", *SLICE, "--type=v4-32", "--bucket=runs", "--poll=0"]
CLUSTER = ["--cluster=c", "--zone=z", "--project=p"]
JOB = ["run", *CLUSTER, "--name=job", "--type=v6e-256"]
NEW = {"queued_resources_list": ["", "CREATING", "ACTIVE"], "tpu_vm_list": ["READY"]}
FINISHED = {"tpu_vm_ssh_status": ["training: exit 0|training: exit 0"]}


def test_shellcheck_passes():
    program = Path(sys.executable).parent / "shellcheck"
    assert program.exists(), "pip install -e '.[test]' brings it"
    done = subprocess.run([program, "-x", *SCRIPTS], cwd=LAUNCH.parent, capture_output=True)
    assert done.returncode == 0, done.stdout.decode()


def test_all_scripts_are_executable():
    assert all(os.access(path, os.X_OK) for path in SCRIPTS if path.name != "common.sh")
    assert all("set -euo pipefail" in path.read_text() for path in SCRIPTS)


@pytest.mark.parametrize(
    "script",
    ["tpu_pod.sh", "tpu_worker.sh", "xpk.sh", "multi_gpu.sh", "slurm.sbatch", "gpu_flags.sh"],
)
def test_help_is_the_comment_at_the_top(script: str, stand_ins: StandIns):
    done = stand_ins.run(script, "--help")
    assert done.returncode == 0 and f"launch/{script}" in done.stdout and not done.stderr
    assert "#" not in done.stdout and "shellcheck" not in done.stdout


@pytest.mark.parametrize(
    "script, words, reason",
    [
        ("tpu_pod.sh", ["create"], "unknown verb 'create'"),
        ("tpu_pod.sh", [*RUN[:-1], "--size=3", *COMMAND], "unknown argument '--size=3'"),
        ("tpu_pod.sh", ["run", "--name=Pod", *COMMAND], "--name is 'Pod'"),
        ("tpu_pod.sh", ["status", "--name=pod", "--project=p"], "--zone is missing"),
        ("tpu_pod.sh", ["status", "--name=pod", "--zone=z"], "--project is missing"),
        ("tpu_pod.sh", ["status", *SLICE, *COMMAND], "status takes no command"),
        ("tpu_pod.sh", ["run", *SLICE, "--type=v4", *COMMAND], "--type is 'v4'"),
        ("tpu_pod.sh", ["run", *SLICE, "--type=tpu7x-8", *COMMAND], "launch/xpk.sh"),
        ("tpu_pod.sh", ["run", *SLICE, "--type=v4-32", *COMMAND], "--bucket=NAME, or --no-bucket"),
        ("tpu_pod.sh", [*RUN, "--no-bucket", *COMMAND], "exclude each other"),
        ("tpu_pod.sh", [*RUN, "--bucket=gs://runs", *COMMAND], "without gs://"),
        ("tpu_pod.sh", [*RUN, "--spot", "--reserved", *COMMAND], "exclude each other"),
        ("tpu_pod.sh", [*RUN, "--max-restarts=many", *COMMAND], "--max-restarts is 'many'"),
        ("tpu_pod.sh", [*RUN, "--poll=soon", *COMMAND], "--poll is 'soon'"),
        ("tpu_pod.sh", [*RUN, "--env=a", *COMMAND], "--env=NAME=VALUE"),
        ("tpu_pod.sh", RUN, "no command"),
        ("tpu_pod.sh", [*RUN, *COMMAND, "--dry-run"], "--dry-run is after -m"),
        ("tpu_pod.sh", ["logs", *SLICE, "--worker=all"], "--worker is 'all'"),
        ("tpu_worker.sh", ["run"], "unknown verb 'run'"),
        ("tpu_worker.sh", ["start", "A=1"], "no command"),
        ("xpk.sh", ["submit"], "unknown verb 'submit'"),
        ("xpk.sh", ["list", "--zone=z", "--project=p"], "--cluster is ''"),
        ("xpk.sh", ["list", "--cluster=c", "--project=p"], "--zone is missing"),
        ("xpk.sh", ["list", *CLUSTER, "--size=3"], "unknown argument '--size=3'"),
        ("xpk.sh", ["delete", *CLUSTER], "--name is ''"),
        ("xpk.sh", ["create-cluster", *CLUSTER, "--type=v6e-16"], "choose: --spot"),
        ("xpk.sh", ["create-cluster", *CLUSTER, "--spot", "--flex"], "exclude each other"),
        ("xpk.sh", ["create-cluster", *CLUSTER, "--type=v6e", "--spot"], "--type is 'v6e'"),
        ("xpk.sh", ["attach-bucket", *CLUSTER], "--bucket is ''"),
        ("xpk.sh", [*JOB, "--image=i", *COMMAND], "--bucket=NAME, or --no-bucket"),
        ("xpk.sh", [*JOB, "--bucket=runs", *COMMAND], "--image or --base-image is missing"),
        ("xpk.sh", [*JOB, "--bucket=runs", "--image=i"], "no command"),
        ("xpk.sh", [*JOB, "--num-slices=0", *COMMAND], "--num-slices is '0'"),
        ("multi_gpu.sh", ["--gpus=all", *COMMAND], "--gpus is 'all'"),
        ("multi_gpu.sh", ["--gpu=0", *COMMAND], "unknown argument '--gpu=0'"),
        ("multi_gpu.sh", [], "no command"),
        ("slurm.sbatch", COMMAND, "this is no Slurm job"),
        ("slurm.sbatch", ["--dry-run"], "no command"),
        ("slurm.sbatch", ["--max-restarts=x", *COMMAND], "--max-restarts is 'x'"),
        ("gpu_flags.sh", ["--gpu"], "unknown argument '--gpu'"),
        ("container_main.sh", [], "no command"),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(
    script: str, words: list[str], reason: str, stand_ins: StandIns
):
    done = stand_ins.run(script, *words)
    assert done.returncode == 2 and done.stdout == "" and stand_ins.log() == []
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert reason in done.stderr


@pytest.mark.parametrize(
    "script, words",
    [
        ("tpu_pod.sh", [*RUN, "--spot", "--delete-at-end", "--env=A=x y"]),
        ("tpu_pod.sh", [*RUN[:-2], "--no-bucket", "--reserved", "--create-flag=--network=n"]),
        ("tpu_pod.sh", ["logs", *SLICE, "--worker=3"]),
        ("tpu_pod.sh", ["status", *SLICE]),
        ("tpu_pod.sh", ["stop", *SLICE]),
        ("tpu_pod.sh", ["delete", *SLICE]),
        ("xpk.sh", ["create-cluster", *CLUSTER, "--type=v6e-256", "--num-slices=2", "--spot"]),
        ("xpk.sh", ["create-cluster", *CLUSTER, "--type=v6e-256", "--reservation=r"]),
        ("xpk.sh", ["attach-bucket", *CLUSTER, "--bucket=runs"]),
        ("xpk.sh", [*JOB, "--num-slices=2", "--bucket=runs", "--image=i", "--env=A=x y"]),
        ("xpk.sh", [*JOB, "--no-bucket", "--base-image=i"]),
        ("xpk.sh", ["list", *CLUSTER]),
        ("xpk.sh", ["wait", *CLUSTER, "--name=job"]),
        ("xpk.sh", ["logs", *CLUSTER, "--name=job"]),
        ("xpk.sh", ["delete", *CLUSTER, "--name=job"]),
        ("xpk.sh", ["delete-cluster", *CLUSTER]),
        ("slurm.sbatch", []),
        ("slurm.sbatch", ["--srun-flag=--container-image=a b"]),
    ],
)
def test_dry_run_prints_the_commands_of_a_run(script: str, words: list[str], stand_ins: StandIns):
    command = COMMAND if script == "slurm.sbatch" or words[0] == "run" else []
    dry = stand_ins.run(script, *words, "--dry-run", *command)
    assert dry.returncode == 0 and dry.stderr == "" and stand_ins.log() == []

    created = {"queued_resources_list": ["", "ACTIVE"]} if command else {}
    stand_ins.answer(**{**NEW, **FINISHED, "queued_resources_list": ["ACTIVE"], **created})
    real = stand_ins.run(script, *words, *command, SLURM_JOB_ID="7")
    assert real.returncode == 0
    done = [call for call in stand_ins.log() if call[0] != "scontrol"]
    assert [shlex.split(line) for line in dry.stdout.splitlines()] == done


def test_slice_is_created_and_all_workers_run_the_same_command(stand_ins: StandIns):
    stand_ins.answer(**NEW, **FINISHED)
    done = stand_ins.run("tpu_pod.sh", *RUN, "--spot", "--env=A=x y", *COMMAND)
    assert done.returncode == 0
    assert stand_ins.steps() == ["create", "scp", "install", "start", "logs"]
    create, copy, install, start, logs = [
        call for call in stand_ins.log() if call[0] == "gcloud" and call[4] in "create scp ssh"
    ][:5]
    assert create[5] == "pod" and "--node-id=pod" in create and "--spot" in create
    assert "--accelerator-type=v4-32" in create
    assert "--runtime-version=tpu-ubuntu2204-base" in create
    assert all("--worker=all" in call for call in (copy, install, start))
    assert "--worker=0" in logs
    assert install[-1].endswith("tpu_worker.sh install runs")
    words = shlex.split(start[-1].removeprefix("--command="))
    assert words == ["bash", "maskgit_jax/launch/tpu_worker.sh", "start", "A=x y", *COMMAND]
    assert "delete --name=pod" in done.stderr  # the slice is still billed


@pytest.mark.parametrize(
    "words, expected, not_expected",
    [
        (["--type=v5litepod-16"], "--runtime-version=v2-alpha-tpuv5-lite", "--spot"),
        (["--type=v5p-64", "--reserved"], "--runtime-version=v2-alpha-tpuv5", "--spot"),
        (["--type=v6e-16", "--spot"], "--runtime-version=v2-alpha-tpuv6e", "--reserved"),
        (["--type=v6e-8", "--reserved"], "--reserved", "--spot"),
        (["--runtime-version=mine"], "--runtime-version=mine", "--reserved"),
        (["--create-flag=--network=n"], "--network=n", "--spot"),
    ],
)
def test_flags_of_the_request(
    words: list[str], expected: str, not_expected: str, stand_ins: StandIns
):
    dry = stand_ins.run("tpu_pod.sh", *RUN, *words, "--dry-run", *COMMAND)
    (create,) = [line.split() for line in dry.stdout.splitlines() if " create " in line]
    assert expected in create and not_expected not in create


def test_single_worker_without_bucket_gets_a_warning(stand_ins: StandIns):
    stand_ins.answer(**NEW, **FINISHED)
    done = stand_ins.run("tpu_pod.sh", "run", *SLICE, "--type=v6e-8", "--poll=0", *COMMAND)
    assert done.returncode == 0 and "lost with the slice" in done.stderr


def test_uncommitted_changes_get_a_warning(stand_ins: StandIns):
    stand_ins.answer(**NEW, **FINISHED, git=[" M setup.py", ""])
    assert "uncommitted changes" in stand_ins.run("tpu_pod.sh", *RUN, *COMMAND).stderr


STARTED = ["scp", "install", "start", "logs"]


@pytest.mark.parametrize(
    "answers, expected",
    [
        ({"queued_resources_list": ["ACTIVE"]}, STARTED),  # idle
        ({"queued_resources_list": ["WAITING_FOR_RESOURCES", "ACTIVE"]}, STARTED),
        (
            {
                "queued_resources_list": ["ACTIVE"],
                "tpu_vm_ssh_status": ["training: running", "training: running", "training: exit 0"],
            },
            ["logs", "logs"],  # already training: follow
        ),
        (
            {"queued_resources_list": ["SUSPENDING", "SUSPENDED", "", "ACTIVE"]},
            ["delete", "create", *STARTED],
        ),
        (
            {"queued_resources_list": ["FAILED", "", "PROVISIONING", "ACTIVE"]},
            ["delete", "create", *STARTED],
        ),
        (
            {
                "queued_resources_list": ["ACTIVE", "", "ACTIVE"],
                "tpu_vm_list": ["PREEMPTED", "READY"],
            },
            ["delete", "create", *STARTED],
        ),
    ],
)
def test_slice_with_the_name_is_reused(
    answers: Mapping[str, Sequence[str]], expected: list[str], stand_ins: StandIns
):
    stand_ins.answer(**{**NEW, **FINISHED, **answers})
    assert stand_ins.run("tpu_pod.sh", *RUN, *COMMAND).returncode == 0
    assert stand_ins.steps() == expected


@pytest.mark.parametrize(
    "answers",
    [
        {  # the machines are gone
            "queued_resources_list": ["", "ACTIVE", "SUSPENDING", "SUSPENDED", "", "ACTIVE"],
            "tpu_vm_ssh_status": ["!255", "training: exit 0"],
        },
        {  # stopped and saved, not finished
            "queued_resources_list": ["", "ACTIVE", "ACTIVE", "FAILED", "FAILED", "", "ACTIVE"],
            "tpu_vm_ssh_status": ["training: exit 0|training: exit 143"] * 2 + ["training: exit 0"],
        },
        {  # processes died before the slice counted as preempted
            "queued_resources_list": ["", "ACTIVE", "ACTIVE", "ACTIVE", "ACTIVE", "", "ACTIVE"],
            "tpu_vm_list": ["READY", "READY", "PREEMPTED", "PREEMPTED", "READY"],
            "tpu_vm_ssh_status": ["training: exit 1|training: running"] * 2 + ["training: exit 0"],
        },
    ],
)
def test_preempted_slice_is_replaced(answers: Mapping[str, Sequence[str]], stand_ins: StandIns):
    stand_ins.answer(**{**NEW, **answers})
    done = stand_ins.run("tpu_pod.sh", *RUN, "--spot", *COMMAND)
    assert done.returncode == 0 and "restart 1 of at most 10" in done.stderr
    steps = stand_ins.steps()
    assert [step for step in steps if step != "logs"] == [
        *["create", "scp", "install", "start"],
        *["delete", "create", "scp", "install", "start"],
    ]
    assert sum(call[:1] == ["git"] and "archive" in call for call in stand_ins.log()) == 1
    first, second = [call for call in stand_ins.log() if "tpu_worker.sh start" in call[-1]]
    assert first == second


def test_rebooted_worker_is_set_up_again(stand_ins: StandIns):
    states = ["training: running|training: gone"] * 2 + ["training: exit 0|training: exit 0"]
    stand_ins.answer(**NEW, tpu_vm_ssh_status=states)
    assert stand_ins.run("tpu_pod.sh", *RUN, *COMMAND).returncode == 0
    assert stand_ins.steps() == ["create", *STARTED, *STARTED]


def test_number_of_restarts_is_limited(stand_ins: StandIns):
    stand_ins.answer(
        queued_resources_list=["", "ACTIVE", "SUSPENDED", "SUSPENDED", "", "ACTIVE", "SUSPENDED"],
        tpu_vm_list=["READY"],
        tpu_vm_ssh_status=["!255"],
    )
    done = stand_ins.run("tpu_pod.sh", *RUN, "--max-restarts=1", *COMMAND)
    assert done.returncode == 1 and "--max-restarts=1 is reached" in done.stderr
    assert stand_ins.steps().count("start") == 2


@pytest.mark.parametrize("at_end, steps", [([], []), (["--delete-at-end"], ["delete"])])
def test_exit_code_of_the_command_is_returned(
    at_end: list[str], steps: list[str], stand_ins: StandIns
):
    stand_ins.answer(**NEW, tpu_vm_ssh_status=["training: running|training: exit 3"])
    done = stand_ins.run("tpu_pod.sh", *RUN, *at_end, *COMMAND)
    assert done.returncode == 3 and "failed with exit code 3" in done.stderr
    assert stand_ins.steps() == ["create", *STARTED, *steps]


def test_broken_connection_does_not_end_the_training(stand_ins: StandIns):
    states = ["training: running", "!255", "!1", "training: exit 0|training: running"]
    stand_ins.answer(**NEW, tpu_vm_ssh_status=[*states, "training: exit 0"], tpu_vm_ssh_logs=["!1"])
    done = stand_ins.run("tpu_pod.sh", *RUN, *COMMAND)
    assert done.returncode == 0
    assert stand_ins.steps() == ["create", *STARTED, *["logs"] * 4]


@pytest.mark.parametrize(
    "answers, reason",
    [
        ({"queued_resources_list": ["!1"]}, "gcloud failed"),
        ({"queued_resources_list": ["", "ACCEPTED", "FAILED"]}, "the request for v4-32 failed"),
        ({"queued_resources_list": ["", "ACCEPTED", ""]}, "the request was deleted"),
        ({**NEW, "tpu_vm_ssh_install": ["!1"]}, "the start failed"),
        ({**NEW, "tpu_vm_scp": ["!1"]}, "the start failed"),
    ],
)
def test_cloud_failures_are_reported(
    answers: Mapping[str, Sequence[str]], reason: str, stand_ins: StandIns
):
    stand_ins.answer(**answers)
    done = stand_ins.run("tpu_pod.sh", *RUN, *COMMAND)
    assert done.returncode == 1 and reason in done.stderr and "start" not in stand_ins.steps()


def test_status_without_a_slice(stand_ins: StandIns):
    done = stand_ins.run("tpu_pod.sh", "status", *SLICE)
    assert done.returncode == 0 and done.stdout == "request: none\nslice: none\n"


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 8
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


class Worker:
    """launch/tpu_worker.sh in the home directory of a worker of a TPU slice."""

    def __init__(self, stand_ins: StandIns):
        self.home, self.environment = stand_ins.folder, stand_ins.environment
        (self.home / "maskgit_jax").mkdir()
        (self.home / "maskgit_jax/launch").symlink_to(LAUNCH)
        for name in NAMES:  # the real programs are needed
            (self.home / "bin" / name).unlink()
        stand_ins.add("mountpoint", "#!/bin/sh\nexit 1\n")
        python = self.home / "maskgit_jax_venv/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(
            "#!/bin/bash\necho started; trap 'echo saved; exit 0' TERM\n"
            'printf \'<%s>\' "$A" "$JAX_PLATFORMS" "$@"; echo\n'
            '[[ $2 == wait ]] || exit "$2"\nwhile :; do sleep 0.02; done\n'
        )
        python.chmod(0o755)

    def __call__(self, *words: str) -> str:
        script = "maskgit_jax/launch/tpu_worker.sh"
        done = subprocess.run(
            ["bash", script, *words],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=10,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def log_has(self, text: str) -> bool:
        return text in (self.home / "maskgit_jax_run/log").read_text()

    def group(self) -> int:
        return int((self.home / "maskgit_jax_run/group").read_text())


@pytest.fixture
def worker(stand_ins: StandIns) -> Iterator[Worker]:
    worker = Worker(stand_ins)
    yield worker
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.group(), signal.SIGKILL)


def test_worker_keeps_exit_code_and_log(worker: Worker):
    assert worker("status") == "training: gone\n"
    worker("start", "A=x y", "-m", "5", "it's $HOME")
    assert "<x y><tpu,cpu><-m><5><it's $HOME>" in worker("logs", "+1")
    assert worker("status") == "training: exit 5\n"


def test_worker_that_was_stopped_has_finished(worker: Worker):
    worker("start", "-m", "wait")
    eventually(lambda: worker.log_has("started"))
    assert worker("status") == "training: running\n"
    worker("stop")
    assert "saved" in worker("logs", "+1")
    assert worker("status") == "training: exit 0\n"


def test_preempted_worker_has_not_finished(worker: Worker):
    worker("start", "-m", "wait")
    eventually(lambda: worker.log_has("started"))
    os.killpg(worker.group(), signal.SIGTERM)  # as at the shutdown of a machine
    eventually(lambda: worker("status") == "training: exit 143\n")
    assert worker.log_has("saved")


def test_worker_runs_one_command_at_a_time(worker: Worker):
    worker("start", "-m", "wait")
    first = worker.group()
    worker("start", "-m", "wait")  # waits until the first has released the lock
    assert worker("status") == "training: running\n" and worker.group() != first
    os.killpg(worker.group(), signal.SIGKILL)
    eventually(lambda: worker("status") == "training: gone\n")


@pytest.mark.parametrize("bucket, mounted", [([], False), (["runs"], False), (["runs"], True)])
def test_worker_is_installed(bucket: list[str], mounted: bool, stand_ins: StandIns):
    for name in ("uv", "sudo", "gcsfuse", "findmnt", "mountpoint"):
        stand_ins.add(name, STAND_IN)
    stand_ins.answer(mountpoint=["yes" if mounted else "!1"], findmnt=["runs"])
    assert stand_ins.run("tpu_worker.sh", "install", *bucket).returncode == 0
    calls = stand_ins.log()
    assert calls[1][:3] == ["uv", "pip", "install"] and calls[1][-1] == f"{LAUNCH.parent}[tpu]"
    fuse = [call for call in calls if call[0] == "gcsfuse"]
    assert len(fuse) == (1 if bucket and not mounted else 0)
    if fuse:
        assert fuse[0][-2:] == ["runs", "/mnt/runs"]
        assert any(word.startswith("--rename-dir-limit=") for word in fuse[0])


def test_another_mounted_bucket_is_refused(stand_ins: StandIns):
    for name in ("uv", "gcsfuse", "findmnt", "mountpoint"):
        stand_ins.add(name, STAND_IN)
    stand_ins.answer(findmnt=["theirs"])
    done = stand_ins.run("tpu_worker.sh", "install", "runs")
    assert done.returncode == 1 and "another bucket than runs" in done.stderr


def test_xpk_job(stand_ins: StandIns):
    words = [*JOB, "--num-slices=2", "--bucket=runs", "--image=i", "--env=A=x y", *COMMAND]
    assert stand_ins.run("xpk.sh", *words).returncode == 0
    (call,) = stand_ins.log()
    assert call[1:3] == ["workload", "create"]
    assert {"--workload=job", "--tpu-type=v6e-256", "--num-slices=2", "--storage=runs"} <= set(call)
    assert {"--docker-image=i", "--env=A=x y", "--max-restarts=10"} <= set(call)
    words = shlex.split(call[-1].removeprefix("--command="))
    assert words == ["bash", "launch/container_main.sh", *COMMAND]


def test_xpk_base_image_gets_the_commit(stand_ins: StandIns):
    assert stand_ins.run("xpk.sh", *JOB, "--no-bucket", "--base-image=i", *COMMAND).returncode == 0
    calls = {call[0]: call for call in stand_ins.log()}
    assert "archive" in calls["git"] and f"--script-dir={calls['tar'][-1]}" in calls["xpk"]


def test_exit_code_of_xpk_is_returned(stand_ins: StandIns):
    stand_ins.answer(xpk=["!125"])
    assert stand_ins.run("xpk.sh", "wait", *CLUSTER, "--name=job").returncode == 125


@pytest.mark.parametrize("answer, code", [("", 0), ("!5", 5)])
def test_container_returns_the_exit_code_of_python(answer: str, code: int, stand_ins: StandIns):
    stand_ins.answer(python=[answer])
    assert stand_ins.run("container_main.sh", *COMMAND).returncode == code
    assert stand_ins.log() == [["python", *COMMAND]]


def test_evicted_container_has_not_finished(stand_ins: StandIns):
    stand_ins.answer(python=["wait"])
    with stand_ins.start("container_main.sh", *COMMAND) as process:
        eventually((stand_ins.folder / "waiting").exists)
        process.terminate()  # python must get the signal, to save
        assert process.wait(8) == 143


def test_gpus_of_one_host(stand_ins: StandIns):
    stand_ins.add("shows", '#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES" "$JAX_PLATFORMS"; exit 4\n')
    words = ["--gpus=0,2", *COMMAND]
    done = stand_ins.run("multi_gpu.sh", *words, PYTHON="shows", JAX_PLATFORMS="cuda")
    assert done.stdout == "0,2 cuda\n" and done.returncode == 4
    dry = stand_ins.run("multi_gpu.sh", "--dry-run", *words, PYTHON="shows", JAX_PLATFORMS="cuda")
    assert subprocess.run(shlex.split(dry.stdout), env=stand_ins.environment).returncode == 4
    assert shlex.split(dry.stdout)[-len(COMMAND) - 1 :] == ["shows", *COMMAND]


def test_gpu_flags_are_accepted_and_user_flags_win(stand_ins: StandIns):
    mine = "--xla_force_host_platform_device_count=3"
    done = stand_ins.run("gpu_flags.sh", XLA_FLAGS=mine, XLA_PYTHON_CLIENT_MEM_FRACTION="0.5")
    settings = dict(shlex.split(line)[1].split("=", 1) for line in done.stdout.splitlines())
    assert settings["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.5"
    flags = settings["XLA_FLAGS"]
    assert flags.count("--xla_gpu_") >= 5 and flags.endswith(mine)
    # XLA aborts on unknown flags, and takes the last of repeated flags.
    flags = mine.replace("3", "2") + " " + flags
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    code = "import jax; print(jax.device_count())"
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert shown.stdout == b"3\n", shown.stderr.decode()


def test_slurm_job_that_finishes(stand_ins: StandIns):
    environment = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "12", "XLA_FLAGS": "--mine"}
    done = stand_ins.run("slurm.sbatch", *COMMAND, **environment)
    assert done.returncode == 0
    (step, question) = stand_ins.log()
    assert step[0] == "srun" and "--cpus-per-task=12" in step
    assert step[-len(COMMAND) - 1 :] == ["python", *COMMAND]
    (flags,) = [word for word in step if word.startswith("XLA_FLAGS=")]
    assert flags.endswith(" --mine")
    assert question == ["scontrol", "show", "job", "7"]


def test_slurm_job_that_fails(stand_ins: StandIns):
    stand_ins.answer(srun=["!9"])
    assert stand_ins.run("slurm.sbatch", *COMMAND, SLURM_JOB_ID="7").returncode == 9
    assert ["scontrol", "requeue", "7"] not in stand_ins.log()


@pytest.mark.parametrize("count, code", [("0", 0), ("2", 1)])
def test_slurm_job_at_its_time_limit_is_requeued(count: str, code: int, stand_ins: StandIns):
    stand_ins.answer(srun=["wait"])
    words = ["--max-restarts=2", *COMMAND]
    environment = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": count}
    with stand_ins.start("slurm.sbatch", *words, **environment) as process:
        eventually((stand_ins.folder / "waiting").exists)
        process.terminate()  # as --signal=B:TERM@120 does: only the shell gets it
        assert process.wait(8) == code
    assert ["scancel", "--signal=TERM", "7"] in stand_ins.log()
    assert (["scontrol", "requeue", "7"] in stand_ins.log()) == (code == 0)


@pytest.mark.parametrize("when, again", [("2026-11-26T10:00:00", True), ("None", False)])
def test_preempted_slurm_job_is_requeued(when: str, again: bool, stand_ins: StandIns):
    stand_ins.answer(scontrol=[f"JobId=7 PreemptEligibleTime=2026-11-26 PreemptTime={when}", ""])
    assert stand_ins.run("slurm.sbatch", *COMMAND, SLURM_JOB_ID="7").returncode == 0
    assert (["scontrol", "requeue", "7"] in stand_ins.log()) == again


def test_slurm_job_outside_the_checkout_is_refused(stand_ins: StandIns):
    done = stand_ins.run("slurm.sbatch", *COMMAND, SLURM_SUBMIT_DIR=str(stand_ins.folder))
    assert done.returncode == 2 and "submit from the root of the checkout" in done.stderr
