"""A cluster of one node, this machine, with Debian's Slurm and munge; stopped at the end."""

import contextlib
import os
import shutil
import socket
import subprocess
import time

PACKAGES = ("slurm-wlm", "munge")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue")

# Ports are of this cluster alone; a job that is queued again waits for `cred_expire` seconds.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
KillWait=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=60 State=UP
"""


def why_impossible():
    """Why no cluster can be started here; installs Debian's packages, if that is all that lacks."""
    if os.geteuid() != 0:
        return "needs root, to start a cluster of one node"
    if all(map(shutil.which, PROGRAMS)):
        return ""
    if shutil.which("apt-get") is None:
        return f"needs {' and '.join(PACKAGES)}, and there is no apt-get to install them with"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "check": False}
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES]
    for command in (["apt-get", "update", "-qq"], install):
        done = subprocess.run(command, env=environment, **quiet)
    lines = done.stderr.strip().splitlines()
    return f"apt-get could not install Slurm: {lines[-1]}" if done.returncode else ""


@contextlib.contextmanager
def one_node_cluster(folder, *, cpus):
    """Start the cluster; its programs find it by SLURM_CONF, which is set inside."""
    host = socket.gethostname().partition(".")[0]
    configuration = folder / "slurm.conf"
    for name in ("state", "spool"):
        (folder / name).mkdir()
    text = CONFIGURATION.format(host=host, folder=folder, ports=_free_ports(2), cpus=cpus)
    configuration.write_text(text)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    files = {"socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log"}
    files |= {"key-file": "munge.key", "seed-file": "munge.seed"}
    munge = [f"--{option}={folder / name}" for option, name in files.items()]
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(configuration)
    with contextlib.ExitStack() as stack:
        stack.callback(_restore, before)
        _start(stack, folder, "munged", "--foreground", "--force", *munge)
        _wait(lambda: (folder / "munge.socket").exists(), folder)
        _start(stack, folder, "slurmctld", "-D", "-f", str(configuration))
        _start(stack, folder, "slurmd", "-D", "-f", str(configuration))
        _wait(lambda: "idle" in called("sinfo", "--noheader", "--format=%T"), folder)
        yield
        called("scancel", "--user=root")
        _wait(lambda: not called("squeue", "--noheader"), folder)


def called(*command):
    """What a program of Slurm says."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _start(stack, folder, *command):
    log = stack.enter_context((folder / f"{command[0]}.txt").open("w"))
    process = subprocess.Popen(command, stdout=log, stderr=log)
    stack.callback(process.wait)
    stack.callback(process.terminate)


def _wait(ready, folder, seconds=60):
    until = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > until:
            logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.txt"))
            raise AssertionError(f"Slurm has not become ready:\n{logs}")
        time.sleep(0.1)


def _free_ports(number):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _restore(before):
    os.environ.pop("SLURM_CONF")
    if before is not None:
        os.environ["SLURM_CONF"] = before
