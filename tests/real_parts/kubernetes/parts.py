"""The processes of the tests' cluster, in name spaces of their own, and where each has its files.

Network, mounts and processes are the cluster's own, below one first process: the host sees no bridge, no rule of iptables and
no changed kernel setting, and when the first process ends the kernel ends everything in there. Pods and nodes have addresses
that exist in that network alone; whoever wants to reach them enters it (`inside`).

What was learned the hard way:

- A kubelet refuses a loopback address for its node, so a bridge without ports carries the nodes' addresses.
- It writes to kernel settings that have no name space; files of ours lie over them.
- Without CAP_SYS_RESOURCE no sandbox starts unless containerd leaves `oom_score_adj` alone.
- Images come by `import`, never from a registry, so the kubelet must not tidy them up.
- The controller manager's default rate of requests costs four seconds at the start.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import ssl
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

from real_parts.kubernetes.pki import Authority

API_PORT = 6443
ETCD_PORT = 2379
SERVICES = "10.97.0.0/24"
API_SERVICE = "10.97.0.1"
DNS_SERVICE = "10.97.0.10"
PAUSE_IMAGE = "docker.io/gateway-manager-tests/pause:1"
PATIENCE = 120.0
"""Seconds for anything that takes a few on an idle machine."""
_NEW_NETWORK = 0x40000000
_KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
_HIDDEN = ("/run", "/var/lib/kubelet", "/var/lib/cni", "/var/log/containers", "/var/log/pods")
"""Fixed places that a kubelet, containerd and network plugins use, besides those that they are given."""


@dataclass(frozen=True)
class Node:
    """One node: its kubelet and containerd, and where its pods have addresses."""

    name: str
    number: int

    @property
    def address(self) -> str:
        """Of its kubelet."""
        return f"10.251.77.{self.number}"

    @property
    def pods(self) -> str:
        """Where its pods have addresses."""
        return f"10.244.{self.number}.0/24"


NODES = (Node("node-a", 1), Node("node-b", 2))
API = f"https://{NODES[0].address}:{API_PORT}"


APART = {"key": "gateway-manager-tests", "value": "apart", "effect": "NoSchedule"}
"""Of every node but the first: tests that end a node have it to themselves."""


class PartError(Exception):
    """A part of the cluster did not start; the sentence ends with its last words."""


class Parts:
    """The cluster's processes, by whoever looks at its directory: its keeper, or a test that wants one of them away."""

    def __init__(self, directory: Path, program: Path) -> None:
        self.directory = directory
        self.program = program
        self.kubeconfig = directory / "admin.conf"
        self.pki = directory / "pki"
        self._logs = directory / "log"
        self.group = directory.name

    # ------------------------------------------------------------------ one process

    @property
    def init(self) -> int:
        """The first process in the cluster's name spaces."""
        return int((self.directory / "init").read_text())

    def start(self, name: str, *command: str) -> None:
        """Start a part in there; its pid is kept under its name."""
        self._logs.mkdir(exist_ok=True)
        with (self._logs / f"{name}.log").open("ab") as log:
            entered = subprocess.Popen(
                ["nsenter", "--target", str(self.init), "--net", "--mount", "--pid", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.directory / f"pid.{name}").write_text(str(self._child(entered)))
        entered.returncode = 0  # it outlives whoever starts it

    def pid(self, name: str) -> int:
        """The host's number of a part's process."""
        return int((self.directory / f"pid.{name}").read_text())

    def runs(self, name: str) -> bool:
        """Whether a part's process lives; a zombie does not."""
        try:
            state = Path(f"/proc/{self.pid(name)}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state != "Z"

    def send(self, name: str, number: signal.Signals) -> None:
        """SIGSTOP and SIGCONT freeze a part and lift that."""
        os.kill(self.pid(name), number)

    def end(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End a part and wait until it is gone; one that does not obey is killed."""
        for number, seconds in ((how, 10.0), (signal.SIGKILL, 10.0)):
            deadline = time.monotonic() + seconds
            while self.runs(name) and time.monotonic() < deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid(name), number)
                time.sleep(0.05)

    def words(self, name: str) -> str:
        """The end of a part's log."""
        with contextlib.suppress(OSError):
            return (self._logs / f"{name}.log").read_text(errors="replace")[-2000:]
        return ""

    def _child(self, entered: subprocess.Popen[bytes]) -> int:
        """What `nsenter` has forked: it is outside of the process name space itself."""
        children = Path(f"/proc/{entered.pid}/task/{entered.pid}/children")
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and entered.poll() is None:
            if found := children.read_text().split():
                return int(found[0])
            time.sleep(0.01)
        msg = f"{entered.args!r} could not be started in the cluster's name spaces"
        raise PartError(msg)

    def run(self, *command: str) -> str:
        """Run something in the cluster's name spaces, and give its output."""
        entered = ["nsenter", "--target", str(self.init), "--net", "--mount", "--", *command]
        done = subprocess.run(entered, check=False, capture_output=True, text=True)
        if done.returncode:
            msg = f"{' '.join(command)}: {done.stderr.strip()}"
            raise PartError(msg)
        return done.stdout

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Be in the cluster's network, with this thread and the processes it starts."""
        here, there = (
            os.open("/proc/thread-self/ns/net", os.O_RDONLY),
            os.open(f"/proc/{self.init}/ns/net", os.O_RDONLY),
        )
        try:
            _enter(there)
            yield
        finally:
            _enter(here)
            os.close(here)
            os.close(there)

    # ------------------------------------------------------------------ the whole

    def prepare(self) -> None:
        """Network, mounts and certificates, in name spaces that are empty so far."""
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "link", "add", "nodes", "type", "bridge")
        self.run("ip", "link", "set", "nodes", "up")
        for node in NODES:
            self.run("ip", "addr", "add", f"{node.address}/32", "dev", "nodes")
        self.run("ip", "route", "add", SERVICES, "dev", "nodes")
        self.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        for place in _HIDDEN:
            Path(place).mkdir(parents=True, exist_ok=True)
            self.run("mount", "-t", "tmpfs", "none", place)
        for name, value in _KERNEL_SETTINGS.items():
            file = self.directory / "kernel" / name.replace("/", ".")
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"{value}\n")
            with contextlib.suppress(PartError):  # not every kernel has all of them
                self.run("mount", "--bind", str(file), f"/proc/sys/{name}")
        authority = Authority(self.pki)
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
        authority.sign("apiserver", "kube-apiserver", addresses=["127.0.0.1", NODES[0].address, API_SERVICE, *names])
        authority.sign("to-kubelet", "apiserver-kubelet", group="system:masters")
        authority.sign("admin", "admin", group="system:masters")
        authority.sign("controllers", "system:kube-controller-manager")
        authority.sign("scheduler", "system:kube-scheduler")
        authority.sign("proxy", "system:kube-proxy")
        authority.key_pair("accounts")
        for user in ("admin", "controllers", "scheduler", "proxy"):
            authority.kubeconfig(user, API, self.directory / f"{user}.conf")
        for node in NODES:
            authority.sign(f"{node.name}-server", node.name, addresses=[node.address, node.name])
            authority.sign(node.name, f"system:node:{node.name}", group="system:nodes")
            authority.kubeconfig(node.name, API, self.directory / f"{node.name}.conf")

    def start_etcd(self) -> None:
        """Where the API server keeps everything."""
        client, peer = (f"http://127.0.0.1:{port}" for port in (ETCD_PORT, ETCD_PORT + 1))
        where = ["--data-dir", str(self.directory / "etcd"), "--initial-cluster", f"default={peer}"]
        where += ["--listen-client-urls", client, "--advertise-client-urls", client]
        where += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        self.start("etcd", str(self.program), "etcd", *where, "--unsafe-no-fsync", "--log-level", "warn")

    def start_apiserver(self, name: str = "kube-apiserver", port: int = API_PORT, *more: str) -> None:
        """The API server, or another one of the same cluster; its audit log has who did what, without bodies."""
        policy = self.directory / "audit-policy.json"
        rules = [{"level": "None", "verbs": ["get", "list", "watch"]}, {"level": "RequestResponse"}]
        policy.write_text(json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}))
        pki = self.pki
        self.start(
            name,
            str(self.program),
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{ETCD_PORT}",
            f"--bind-address={NODES[0].address}",
            f"--secure-port={port}",
            f"--advertise-address={NODES[0].address}",
            f"--tls-cert-file={pki}/apiserver.crt",
            f"--tls-private-key-file={pki}/apiserver.key",
            f"--client-ca-file={pki}/ca.crt",
            f"--service-account-key-file={pki}/accounts.pub",
            f"--service-account-signing-key-file={pki}/accounts.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--kubelet-client-certificate={pki}/to-kubelet.crt",
            f"--kubelet-client-key={pki}/to-kubelet.key",
            f"--kubelet-certificate-authority={pki}/ca.crt",
            "--kubelet-preferred-address-types=InternalIP",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction,PodNodeSelector,PodTolerationRestriction",
            f"--service-cluster-ip-range={SERVICES}",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.directory}/{'audit' if port == API_PORT else name}.log",
            "--profiling=false",
            *more,
        )

    def start_controllers(self) -> None:
        """The controller manager and the scheduler. A node that is silent for 12 s counts as lost."""
        pki, fast = self.pki, ["--kube-api-qps=500", "--kube-api-burst=1000", "--leader-elect=false"]
        alone = ["--bind-address=127.0.0.1"]
        for name, mine in (("kube-controller-manager", "controllers"), ("kube-scheduler", "scheduler")):
            own = self.directory / f"{mine}.conf"
            known = [
                f"--{kind}={own}" for kind in ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
            ]
            more = [
                f"--service-account-private-key-file={pki}/accounts.key",
                f"--root-ca-file={pki}/ca.crt",
                f"--cluster-signing-cert-file={pki}/ca.crt",
                f"--cluster-signing-key-file={pki}/ca.key",
                "--use-service-account-credentials=true",
                f"--flex-volume-plugin-dir={self.directory}/plugins",
                "--node-monitor-period=1s",
                "--node-monitor-grace-period=12s",
            ]
            self.start(name, str(self.program), name, *known, *fast, *alone, *(more if mine == "controllers" else []))

    def start_proxy(self) -> None:
        """What makes the addresses of Services work."""
        config = self.directory / "proxy.json"
        said = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clusterCIDR": "10.244.0.0/16",
            "hostnameOverride": NODES[0].name,
            "clientConnection": {"kubeconfig": str(self.directory / "proxy.conf")},
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        config.write_text(json.dumps(said))
        self.start("kube-proxy", str(self.program), "kube-proxy", f"--config={config}")

    def start_node(self, node: Node) -> None:
        """A node's containerd and kubelet."""
        self.start_containerd(node)
        self.start_kubelet(node)

    def containerd_socket(self, node: Node) -> Path:
        """Where a node's containerd listens."""
        return self.directory / node.name / "c.sock"

    def start_containerd(self, node: Node) -> None:
        """Return once it answers and has the image of the sandboxes."""
        own = self.directory / node.name
        own.mkdir(exist_ok=True)
        config, plugins, registries = own / "containerd.toml", own / "cni", own / "registries"
        config.write_text(_CONTAINERD.format(own=own, pause=PAUSE_IMAGE))
        (registries / "_default").mkdir(parents=True, exist_ok=True)
        (registries / "_default" / "hosts.toml").write_text(_NO_REGISTRY)
        plugins.mkdir(exist_ok=True)
        (plugins / "10-tests.conflist").write_text(json.dumps(_network(node, own)))
        self.start(f"containerd-{node.name}", "containerd", "--config", str(config))
        self.wait_for(f"containerd-{node.name}", lambda: self.ctr(node, "version", check=False) is not None)
        if PAUSE_IMAGE not in (self.ctr(node, "images", "ls", "-q") or ""):
            self.load_image(_pause_archive(), nodes=[node])

    def ctr(self, node: Node, *arguments: str, stdin: bytes | None = None, check: bool = True) -> str | None:
        """Ask a node's containerd; None when that failed and need not have worked."""
        command = ["ctr", "--address", str(self.containerd_socket(node)), "--namespace", "k8s.io", *arguments]
        done = subprocess.run(command, input=stdin, check=False, capture_output=True)
        if done.returncode and check:
            raise PartError(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout.decode(errors="replace") if not done.returncode else None

    def load_image(self, archive: bytes, *, nodes: Sequence[Node] = NODES[:1]) -> None:
        """Give an image, as `docker save` writes it, to nodes."""
        for node in nodes:
            self.ctr(node, "images", "import", "-", stdin=archive)

    def start_kubelet(self, node: Node) -> None:
        """Return at once: whether the node is ready, the API server says."""
        own = self.directory / node.name
        config = own / "kubelet.json"
        config.write_text(json.dumps(self._kubelet(node, own)))
        (own / "resolv.conf").touch()
        self._make_group(node)
        self.start(
            f"kubelet-{node.name}",
            str(self.program),
            "kubelet",
            f"--config={config}",
            f"--kubeconfig={self.directory}/{node.name}.conf",
            f"--root-dir={own}/kubelet",
            f"--cert-dir={own}/kubelet-pki",
            f"--hostname-override={node.name}",
            f"--node-ip={node.address}",
            f"--node-labels=topology.kubernetes.io/zone=zone-{node.number}",
        )

    def _kubelet(self, node: Node, own: Path) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": node.address,
            "port": 10250,
            "healthzPort": 0,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{self.pki}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": f"{self.pki}/{node.name}-server.crt",
            "tlsPrivateKeyFile": f"{self.pki}/{node.name}-server.key",
            "containerRuntimeEndpoint": f"unix://{self.containerd_socket(node)}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.group}/{node.name}",
            "registerWithTaints": [] if node is NODES[0] else [APART],
            "clusterDNS": [DNS_SERVICE],
            "clusterDomain": "cluster.local",
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "resolvConf": f"{own}/resolv.conf",
            "podLogsDir": f"{own}/logs",
            "volumePluginDir": f"{own}/plugins",
            "maxPods": 110,
            "serializeImagePulls": False,
            "registryPullQPS": 0,
            "kubeAPIQPS": 200,
            "kubeAPIBurst": 400,
            "eventRecordQPS": 0,
            "nodeStatusUpdateFrequency": "2s",
            "nodeLeaseDurationSeconds": 8,
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "shutdownGracePeriod": "0s",
        }

    def _make_group(self, node: Node) -> None:
        """A control group of the node's own: nothing of it lies in anybody else's, and a kubelet ends what it finds in its own."""
        for tree in control_groups():
            for group in (tree / self.group, tree / self.group / node.name):
                group.mkdir(exist_ok=True)
                for name in ("cpuset.cpus", "cpuset.mems"):  # in the older form they begin empty, and nothing starts
                    if (group / name).exists() and not (group / name).read_text().strip():
                        (group / name).write_text((tree / name).read_text())

    # ------------------------------------------------------------------ asking

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> str:
        """What kubectl prints; from inside alone."""
        command = [str(self.program), "kubectl", f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=stdin, check=False, capture_output=True, text=True)
        if done.returncode and check:
            msg = f"kubectl {' '.join(arguments)}: {done.stderr.strip()}"
            raise PartError(msg)
        return done.stdout

    def ask(self, method: str, path: str, body: object = None, *, kind: str = "application/json") -> Any:
        """Ask the API server as its administrator, from inside alone. Raises `OSError`, an `HTTPError` where it refuses."""
        context = ssl.create_default_context(cafile=str(self.pki / "ca.crt"))
        context.load_cert_chain(str(self.pki / "admin.crt"), str(self.pki / "admin.key"))
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{API}{path}", data, {"Content-Type": kind}, method=method)  # noqa: S310  # https, as `API` says
        with urllib.request.urlopen(request, context=context, timeout=PATIENCE) as answer:  # noqa: S310
            content = answer.read()
        return json.loads(content) if content[:1] == b"{" else content

    def answers(self, path: str, word: bytes = b"") -> bool:
        """Whether the API server answers there, with this word in it."""
        with contextlib.suppress(OSError):
            return word in str(self.ask("GET", path)).encode()
        return False

    def is_ready(self, node: Node) -> bool:
        """Whether a node may get pods."""
        try:
            found = self.ask("GET", f"/api/v1/nodes/{node.name}")
        except OSError:
            return False
        states = {each["type"]: each["status"] for each in found["status"].get("conditions", ())}
        return states.get("Ready") == "True"

    def wait_for(self, part: str, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds. Raises `PartError` with the part's last words."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline or not self.runs(part):
                how = "took too long" if self.runs(part) else "has ended"
                msg = f"{part} {how}: {self.words(part)}"
                raise PartError(msg)
            time.sleep(0.05)


def control_groups() -> list[Path]:
    """Where control groups begin: one tree, or in the older form one for each controller."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root]
    return [tree for tree in root.glob("*") if (tree / "cgroup.procs").exists() and not tree.is_symlink()]


def _enter(network: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(network, _NEW_NETWORK) != 0:
        raise OSError(ctypes.get_errno(), "setns")


_NO_REGISTRY = 'server = "http://127.0.0.1:1"\n[host."http://127.0.0.1:1"]\n  capabilities = ["pull", "resolve"]\n'
"""Every pull fails at once."""
_CONTAINERD = """\
version = 2
root = "{own}/c-root"
state = "{own}/c-state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "{own}/c.sock"
[ttrpc]
  address = "{own}/c.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{own}/c-opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{own}/registries"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{own}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        Root = "{own}/runc"
        SystemdCgroup = false
"""


def _network(node: Node, own: Path) -> dict[str, object]:
    """Pods get an address of the node's range on a bridge; the way out ends in the cluster's own network."""
    addresses = {
        "type": "host-local",
        "dataDir": f"{own}/addresses",
        "ranges": [[{"subnet": node.pods}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": f"pods-{node.number}", "isGateway": True, "hairpinMode": True}
    return {"cniVersion": "0.4.0", "name": node.name, "plugins": [{**bridge, "ipMasq": False, "ipam": addresses}]}


def _pause_archive() -> bytes:
    """What holds a pod's name spaces: busybox, asleep."""
    layer = BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        archive.add(os.path.realpath("/bin/busybox"), arcname="bin/busybox")
    return docker_archive(PAUSE_IMAGE, [layer.getvalue()], {"Entrypoint": ["/bin/busybox", "sleep", "2147483647"]})


def docker_archive(name: str, layers: Sequence[bytes], config: dict[str, object]) -> bytes:
    """An image as `docker save` writes it, of these layers (tar archives) and this configuration."""
    digests = [sha256(layer).hexdigest() for layer in layers]
    about = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        "history": [{"created_by": "gateway-manager tests"} for _ in digests],
    }
    content = json.dumps(about).encode()
    config_name, layer_names = f"{sha256(content).hexdigest()}.json", [f"{digest}.tar" for digest in digests]
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": layer_names}]).encode()
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file, data in ((config_name, content), *zip(layer_names, layers, strict=True), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(file)
            entry.size = len(data)
            archive.addfile(entry, BytesIO(data))
    return buffer.getvalue()
