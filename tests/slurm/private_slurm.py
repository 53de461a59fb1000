"""A Slurm of our own for the tests: munged, slurmctld and a slurmd for each of a few nodes, all on
this machine.

Nothing outside a temporary folder is written, daemons listen on 127.0.0.1 only, and neither
systemd, cgroups nor root is needed; the programs come from Debian's packages munge, slurmctld,
slurmd and slurm-client. A guard, a process of its own, ends everything and removes the folder when
this process stops the Slurm or is gone, however it ended.
"""
import ctypes
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

PACKAGES = "munge slurmctld slurmd slurm-client"
PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"

CONFIGURATION = """
ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
CredType=cred/munge
# A requeued job starts again when its credential has expired: two minutes by default, five seconds
# at least.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n/slurmd.pid
# PMIx keeps its files in a folder with this start: nodes on one machine must not share it.
TmpFS={folder}/%n/tmp
PlugStackConfig=/dev/null
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# Jobs start when they can, not at the next tick.
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
# Nodes claim more processors than there may be.
SlurmdParameters=config_overrides
ReturnToService=2
InactiveLimit=0
KillWait={kill_wait}
MinJobAge=3600
JobRequeue=1
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 State=UP
"""


class Unavailable(Exception):
    """There can be no Slurm here; the text says why."""


class PrivateSlurm:
    """`with PrivateSlurm() as slurm:`, then slurm.run("sbatch", ...)."""

    def __init__(self, nodes=2, processors=8, gpus=2, kill_wait=10):
        """kill_wait: seconds between a job's SIGTERM and its SIGKILL."""
        self.nodes = [f"node{i + 1}" for i in range(nodes)]
        self.processors, self.gpus, self.kill_wait = processors, gpus, kill_wait

    def __enter__(self):
        missing = [
            name for name in ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
            if shutil.which(name, path=PATH) is None
        ]
        if missing:
            raise Unavailable(f"{', '.join(missing)} not installed (apt install {PACKAGES})")
        self.folder = tempfile.mkdtemp(prefix="fl_sim_slurm_")
        os.chmod(self.folder, 0o755)
        self._daemons = []
        self._guard = subprocess.Popen(
            [sys.executable, "-B", os.path.abspath(__file__), self.folder], stdin=subprocess.PIPE,
            start_new_session=True)
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *unused):
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                pass  # the guard kills it
        self._end()

    @property
    def environment(self):
        """What clients of this Slurm need; jobs inherit it."""
        kept = {
            name: value for name, value in os.environ.items()
            if not re.match("SLURM|SBATCH|SRUN|OMPI_|PMIX_|PRTE_|FL_SIM", name)
        }
        return {
            **kept,
            "PATH": PATH,
            "HOME": kept.get("HOME", self.folder),
            "SLURM_CONF": self._path("slurm.conf"),
            # Nodes on one machine would map each other's shared-memory files: Open MPI names those
            # by host and rank.
            "OMPI_MCA_btl": "self,tcp",
            "OMPI_MCA_btl_tcp_if_include": "lo",
            "OMPI_MCA_oob_tcp_if_include": "lo",
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "PRTE_ALLOW_RUN_AS_ROOT": "1",
            "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1"
        }

    def run(self, *words, **environment):
        """A client command's output. `environment`: more variables, for a job that it submits."""
        done = subprocess.run([str(word) for word in words],
                              env={**self.environment, **environment}, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=240)
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(map(str, words))} fails with code {done.returncode}:\n"
                                 f"{done.stdout}{done.stderr}")
        return done.stdout

    def job(self, number):
        """What Slurm knows of a job: {"JobState": "RUNNING", ...}."""
        line = self.run("scontrol", "--oneliner", "show", "job", number)
        return dict(re.findall(r"(\S+?)=(\S*)", line))

    def processes(self, words=""):
        """Ids of the living processes of jobs, with these words in their command line."""
        return [
            process for process in processes_of(self.folder) if words in command_line(process)
            and not re.match("munged|slurmctld|slurmd", program_of(process))
        ]

    def _path(self, name):
        return os.path.join(self.folder, name)

    def _start(self):
        user = pwd.getpwuid(os.getuid()).pw_name
        host = socket.gethostname().split(".")[0]
        ports = free_ports(len(self.nodes) + 1)
        text = CONFIGURATION.format(host=host, port=ports[0], user=user, folder=self.folder,
                                    kill_wait=self.kill_wait)
        gres = f" Gres=gpu:{self.gpus}" if self.gpus else ""
        if self.gpus:
            text += "GresTypes=gpu\n"
            devices = []
            # Pretended: jobs get CUDA_VISIBLE_DEVICES, and no device stands behind it.
            for i in range(self.gpus):
                devices.append(self._path(f"gpu{i}"))
                os.symlink("/dev/null", devices[-1])
            with open(self._path("gres.conf"), "w") as file:
                for node in self.nodes:
                    for device in devices:
                        file.write(f"NodeName={node} Name=gpu File={device} Flags=nvidia_gpu_env\n")
        for node, port in zip(self.nodes, ports[1:]):
            os.makedirs(self._path(f"{node}/tmp"))
            text += (f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
                     f"CPUs={self.processors} Sockets=1 CoresPerSocket={self.processors} "
                     f"ThreadsPerCore=1 RealMemory=100000{gres}\n")
        os.makedirs(self._path("state"))
        with open(self._path("slurm.conf"), "w") as file:
            file.write(text)
        with open(self._path("cgroup.conf"), "w") as file:
            file.write("CgroupPlugin=disabled\n" if self._version() >= (23, 11) else "")
        with open(os.open(self._path("munge.key"), os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(os.urandom(128))

        self._daemon("munged", "--foreground", "--force", "--num-threads=2",
                     "--key-file=" + self._path("munge.key"),
                     "--socket=" + self._path("munge.socket"),
                     "--pid-file=" + self._path("munged.pid"),
                     "--seed-file=" + self._path("munge.seed"),
                     "--log-file=" + self._path("munged.log"))
        self._await("munged", lambda: os.path.exists(self._path("munge.socket")))
        self._daemon("slurmctld", "-D", "-c", "-i", "-f", self._path("slurm.conf"))
        self._await("slurmctld", lambda: "UP" in self._ask("scontrol", "ping"))
        for node in self.nodes:
            self._daemon("slurmd", "-D", "-N", node, "-f", self._path("slurm.conf"))
        self._await(
            "slurmd", lambda: self._ask("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * len(
                self.nodes))

    def _version(self):
        found = re.search(r"(\d+)\.(\d+)", self._ask("slurmctld", "-V"))
        return (int(found[1]), int(found[2])) if found else (0, 0)

    def _daemon(self, *words):
        log = open(self._path(f"{words[0]}.{len(self._daemons)}.out"), "wb")
        with log:
            self._daemons.append(
                subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                 cwd=self.folder, start_new_session=True, env=self.environment,
                                 preexec_fn=die_with_parent))

    def _ask(self, *words):
        return subprocess.run(words, env=self.environment, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=240).stdout

    def _await(self, what, condition, patience=90):
        end = time.monotonic() + patience
        while not condition():
            ended = [daemon for daemon in self._daemons if daemon.poll() is not None]
            if ended or time.monotonic() > end:
                raise Unavailable(f"{what} does not start here:\n{self._logs()}")
            time.sleep(0.05)

    def _logs(self):
        text = ""
        for name in sorted(os.listdir(self.folder)):
            if name.endswith((".out", ".log")):
                with open(self._path(name), errors="replace") as file:
                    text += "".join(f"  {name}: {line}" for line in file.readlines()[-8:])
        return text

    def _end(self):
        self._guard.stdin.close()
        self._guard.wait()
        for daemon in self._daemons:
            daemon.wait()


def die_with_parent():
    """In a new process: the kernel kills it when its parent dies."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def program_of(process):
    try:
        return os.path.basename(os.readlink(f"/proc/{process}/exe"))
    except OSError:
        return ""


def command_line(process):
    try:
        with open(f"/proc/{process}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def processes_of(folder):
    """Ids of the living processes of the Slurm in this folder. SLURM_CONF in their environment
    names it or, where a process has overwritten that with its title, as slurmstepd does, the folder
    in which it was started."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                ours = f"SLURM_CONF={folder}/".encode() in file.read()
            ours = ours or os.readlink(f"/proc/{name}/cwd").removesuffix(" (deleted)") == folder
            with open(f"/proc/{name}/stat") as file:
                zombie = file.read().rsplit(")", 1)[1].split()[0] == "Z"
        except OSError:  # it ended meanwhile, or is another user's
            continue
        if ours and not zombie:
            found.append(int(name))
    return found


def guard(folder):
    """Waits until the process that started us closes our input or ends, and ends its Slurm."""
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    sys.stdin.read()
    for _ in range(100):  # what is killed may have started something a moment ago
        processes = processes_of(folder)
        if not processes:
            break
        for process in processes:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    guard(sys.argv[1])
