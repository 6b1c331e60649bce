"""What the schemas can't know of our own deployment files: deploy/check.sh runs it.

Every rule prints what is wrong and where; any makes the exit code 1.
"""

import json
import pathlib
import re
import sys
import xml.etree.ElementTree

import jsonschema
import yaml

# Above this the service is killed in the middle of its stop (src/app.rs).
STOP_SECONDS = 25
# ENV of the image besides the service's settings: none.
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN")

faults = []


def fault(where, what):
    faults.append(f"{where}: {what}")


def settings(root):
    """The names of the service's settings, as the program knows them."""
    names = set()
    for file, start in (
        ("mod.rs", "pub struct Settings {"),
        ("access.rs", "pub struct AccessSettings {"),
        ("browsers.rs", "pub struct BrowserSettings {"),
        ("connections.rs", "pub struct ConnectionSettings {"),
    ):
        source = (root / "src/config" / file).read_text()
        struct = source.split(start)[1].split("\n}\n")[0]
        names |= {name.upper() for name in re.findall(r"^    pub (\w+):", struct, re.M)}
    return names


def routes(root):
    """The paths of the API that clients call, from its Postman collection, in every version."""
    folders = json.loads((root / "docs/postman.json").read_text())["item"]
    requests = [item["request"] for folder in folders for item in folder["item"]]
    paths = {"/" + "/".join(request["url"]["path"]) for request in requests}
    # For probes and for Prometheus, inside.
    paths = {path for path in paths if not path.startswith(("/health", "/metrics"))}
    versions = [path.removeprefix("/v1") for path in paths]
    return paths.union(*({"/v1" + path, "/latest" + path} for path in versions))


def pinned(image):
    name, _, tag = image.rpartition(":")
    return bool(name) and "/" not in tag and tag not in ("latest", "")


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", str(text)).group(1))


def compose(rendered, profile, root):
    document = yaml.safe_load(rendered.read_text())
    services = {
        name: service
        for name, service in document["services"].items()
        if profile in service.get("profiles", [profile])
    }
    names, nodes, spools = settings(root), {}, {}
    for name, service in services.items():
        where = f"docker-compose.yml: {name}"
        if "mem_limit" not in service:
            fault(where, "no memory limit")
        ours = service["image"].startswith("traffic-api:")
        if not ours and not pinned(service["image"]):
            fault(where, f"{service['image']} is not pinned")
        for needed in service.get("depends_on", {}):
            if needed not in services:
                fault(where, f"waits for {needed}, which is not in profile {profile}")
        for volume in service.get("volumes", []):
            # The old compose prints one form, the new one the other.
            if isinstance(volume, dict):
                source, target = volume["source"], volume["target"]
            else:
                source, target, *_ = volume.split(":")
            if source.startswith("/") and not pathlib.Path(source).exists():
                fault(where, f"mounts {source}, which does not exist")
            if target == "/data":
                spools.setdefault(source, []).append(name)
        for port in service.get("ports", []):
            host = port.get("host_ip", "") if isinstance(port, dict) else port.split(":")[0]
            if host != "127.0.0.1":
                fault(where, f"port {port} is not on loopback")
        environment = service.get("environment", {})
        if ours:
            for variable in environment.keys() - names:
                fault(where, f"{variable} is not a setting of the service")
            if not service.get("command") and not {"AUTH", "API_KEYS_FILE"} & environment.keys():
                fault(where, "refuses to start: AUTH is not off, and there are no keys")
            if not service.get("read_only") or service.get("cap_drop") != ["ALL"]:
                fault(where, "may write to its root, or has capabilities")
            if seconds(service["stop_grace_period"]) <= STOP_SECONDS:
                fault(where, f"is killed before it can stop, which takes up to {STOP_SECONDS} s")
        if "NODE_ID" in environment:
            nodes.setdefault(environment["NODE_ID"], []).append(name)
        elif ours and service.get("command") != ["migrate"]:
            fault(where, "has no NODE_ID")
    for what, users in [*nodes.items(), *spools.items()]:
        if len(users) > 1:
            fault("docker-compose.yml", f"{' and '.join(users)} share {what}")


def dockerfile(root):
    text = (root / "Dockerfile").read_text()
    runtime = text.split(" AS runtime")[1].replace("\\\n", " ")
    if not re.search(r"^USER [1-9]\d*(:[1-9]\d*)?$", runtime, re.M):
        fault("Dockerfile", "the image does not run as a user with a number other than 0")
    if "HEALTHCHECK" not in runtime or '"probe"' not in runtime:
        fault("Dockerfile", "no health check")
    for variables in re.findall(r"^ENV (.*)$", runtime, re.M):
        for name in re.findall(r"(\w+)=", variables):
            if name not in settings(root):
                fault("Dockerfile", f"{name} is not a setting of the service")
    ignored = (root / ".dockerignore").read_text().splitlines()
    for name in (".git", ".env", "target"):
        if name not in ignored:
            fault(".dockerignore", f"{name} goes into the context")


# https://prometheus-operator.dev/docs/api-reference/api/ as far as it is used here.
SERVICE_MONITOR = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "ServiceMonitor"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "required": ["selector", "endpoints"],
            "additionalProperties": False,
            "properties": {
                "selector": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"matchLabels": {"additionalProperties": {"type": "string"}}},
                },
                "endpoints": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["port"],
                        "additionalProperties": False,
                        "properties": {
                            "port": {"type": "string"},
                            "path": {"type": "string", "pattern": "^/"},
                            "interval": {"type": "string", "pattern": r"^\d+(ms|s|m)$"},
                            "scrapeTimeout": {"type": "string", "pattern": r"^\d+(ms|s|m)$"},
                            "authorization": {
                                "type": "object",
                                "required": ["credentials"],
                                "additionalProperties": False,
                                "properties": {
                                    "type": {"type": "string"},
                                    "credentials": {
                                        "type": "object",
                                        "required": ["name", "key"],
                                        "additionalProperties": False,
                                        "properties": {
                                            "name": {"type": "string"},
                                            "key": {"type": "string"},
                                        },
                                    },
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}


def selects(selector, labels):
    return selector.items() <= labels.items()


def kubernetes(rendered, overlay, root):
    objects = [o for o in yaml.safe_load_all(rendered.read_text()) if o]
    by_kind = {}
    for o in objects:
        by_kind.setdefault(o["kind"], []).append(o)
    names = settings(root)
    maps = {o["metadata"]["name"]: o["data"] for o in by_kind.get("ConfigMap", [])}
    workloads = by_kind.get("StatefulSet", []) + by_kind.get("Job", [])
    labels = []
    for workload in workloads:
        template = workload["spec"]["template"]
        labels.append(template["metadata"]["labels"])
        where = f"{overlay}: {workload['kind']} {workload['metadata']['name']}"
        pod = template["spec"]
        security = pod["securityContext"]
        if not security.get("runAsNonRoot") or security.get("runAsUser", 0) == 0:
            fault(where, "may run as root")
        if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            fault(where, "no seccomp profile")
        for container in pod["containers"]:
            own = container["securityContext"]
            if (
                not own.get("readOnlyRootFilesystem")
                or own.get("allowPrivilegeEscalation", True)
                or own.get("capabilities") != {"drop": ["ALL"]}
            ):
                fault(where, "the container may do more than it needs")
            if not pinned(container["image"]):
                fault(where, f"{container['image']} is not pinned")
            resources = container["resources"]
            if {"cpu", "memory"} - resources["requests"].keys() or "memory" not in resources["limits"]:
                fault(where, "resources are missing")
            given = {variable["name"] for variable in container.get("env", [])}
            if container.get("args") == ["serve"] and not {"AUTH", "API_KEYS_FILE"} & given:
                fault(where, "refuses to start: AUTH is not off, and there are no keys")
            for variable in container.get("env", []):
                if variable["name"] not in names:
                    fault(where, f"{variable['name']} is not a setting of the service")
                if SECRET.search(variable["name"]) and "secretKeyRef" not in variable.get("valueFrom", {}):
                    fault(where, f"{variable['name']} does not come from a Secret")
            for source in container.get("envFrom", []):
                data = maps.get(source["configMapRef"]["name"])
                if data is None:
                    fault(where, f"no ConfigMap {source['configMapRef']['name']}")
                for name in (data or {}).keys() - names:
                    fault(where, f"{name} is not a setting of the service")
    for state in by_kind.get("StatefulSet", []):
        where = f"{overlay}: StatefulSet {state['metadata']['name']}"
        spec, pod = state["spec"], state["spec"]["template"]["spec"]
        container = pod["containers"][0]
        if spec["persistentVolumeClaimRetentionPolicy"] != {"whenDeleted": "Retain", "whenScaled": "Retain"}:
            fault(where, "the volume of an instance that goes is deleted, with views that wait on it")
        command = container["lifecycle"]["preStop"]["exec"]["command"]
        within = [int(w.removeprefix("--within=")) for w in command if w.startswith("--within=")]
        if "drain" not in command or not within:
            fault(where, "an instance that goes does not drain its spool")
        elif pod["terminationGracePeriodSeconds"] < within[0] + STOP_SECONDS + 10:
            fault(where, "is killed before it can drain and stop")
        if "NODE_ID" not in [variable["name"] for variable in container["env"]]:
            fault(where, "has no NODE_ID")
        if "replicas" in spec and "HorizontalPodAutoscaler" in by_kind:
            fault(where, "sets replicas against the autoscaler")
        if not selects(spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"]):
            fault(where, "does not select its own pods")
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe not in container:
                fault(where, f"no {probe}")
    container_ports = [
        port["name"]
        for workload in workloads
        for container in workload["spec"]["template"]["spec"]["containers"]
        for port in container.get("ports", [])
    ]
    for o in by_kind.get("Service", []):
        where = f"{overlay}: Service {o['metadata']['name']}"
        if not any(selects(o["spec"]["selector"], each) for each in labels):
            fault(where, "selects no pod")
        for port in o["spec"]["ports"]:
            if port["targetPort"] not in container_ports:
                fault(where, f"no container has a port {port['targetPort']}")
    for o in by_kind.get("PodDisruptionBudget", []) + by_kind.get("NetworkPolicy", []):
        selector = o["spec"].get("selector") or o["spec"].get("podSelector")
        if not any(selects(selector["matchLabels"], each) for each in labels):
            fault(f"{overlay}: {o['kind']}", "selects no pod")
    for o in by_kind.get("HorizontalPodAutoscaler", []):
        target = o["spec"]["scaleTargetRef"]
        if target["name"] not in [t["metadata"]["name"] for t in by_kind.get(target["kind"], [])]:
            fault(f"{overlay}: HorizontalPodAutoscaler", f"no {target['kind']} {target['name']}")
    for o in by_kind.get("Ingress", []):
        for rule in o["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                wanted = path["backend"]["service"]
                found = [s for s in by_kind["Service"] if s["metadata"]["name"] == wanted["name"]]
                ports = [port["name"] for s in found for port in s["spec"]["ports"]]
                if wanted["port"]["name"] not in ports:
                    fault(f"{overlay}: Ingress", f"{path['path']} goes to no Service")
            prefixes = [p["path"] for p in rule["http"]["paths"] if p["pathType"] == "Prefix"]
            for route in sorted(routes(root)):
                if not any(route.startswith(f"{prefix}/") for prefix in prefixes):
                    fault(f"{overlay}: Ingress", f"does not lead to {route}")
    for o in by_kind.get("ServiceMonitor", []):
        where = f"{overlay}: ServiceMonitor"
        for error in jsonschema.Draft202012Validator(SERVICE_MONITOR).iter_errors(o):
            fault(where, f"{error.json_path}: {error.message}")
        wanted = o["spec"]["selector"]["matchLabels"]
        found = [s for s in by_kind["Service"] if selects(wanted, s["metadata"].get("labels", {}))]
        ports = [port["name"] for s in found for port in s["spec"]["ports"]]
        if len(found) != 1:
            fault(where, f"selects {len(found)} Services instead of one")
        for endpoint in o["spec"]["endpoints"]:
            if endpoint["port"] not in ports:
                fault(where, f"no port {endpoint['port']}")


def xml_files(root):
    """Well-formed, all roots alike, no password in a file, all hosts of the cluster in compose."""
    trees = {}
    for file in sorted((root / "deploy/clickhouse").rglob("*.xml")):
        where = file.relative_to(root)
        try:
            tree = xml.etree.ElementTree.parse(file).getroot()
        except xml.etree.ElementTree.ParseError as error:
            fault(where, error)
            continue
        trees[file.name] = tree
        if tree.tag != "clickhouse":
            fault(where, f"begins with {tree.tag}")
        for element in tree.iter():
            if element.tag in ("password", "secret") and "from_env" not in element.attrib:
                fault(where, f"holds a {element.tag}")
    # The paths of replicated tables are made of these (src/repository/render.rs).
    for name in ("shard", "replica"):
        if trees.get("cluster.xml") is not None and trees["cluster.xml"].find(f"macros/{name}") is None:
            fault("deploy/clickhouse/cluster.d/cluster.xml", f"no macro {name}")
    services = yaml.safe_load((root / "docker-compose.yml").read_text())["services"]
    hosts = {e.text for tree in trees.values() for e in tree.iter() if e.tag in ("host", "hostname")}
    for host in sorted(hosts - services.keys()):
        fault("deploy/clickhouse", f"{host} is no service of docker-compose.yml")
    given = {name for service in services.values() for name in service.get("environment") or {}}
    for tree in trees.values():
        for element in tree.iter():
            name = element.attrib.get("from_env")
            if name and name not in given:
                fault("deploy/clickhouse", f"{name} is not given by docker-compose.yml")
    scraped = yaml.safe_load((root / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    for job in scraped:
        for target in [t for group in job["static_configs"] for t in group["targets"]]:
            host = target.split(":")[0]
            if host not in services and host != "localhost":
                fault("deploy/prometheus/prometheus.yml", f"{host} is no service of docker-compose.yml")


def gitlab(source, root):
    """Which jobs run for what, and whether the paths that they use exist."""
    lines = [line for line in sys.stdin.read().splitlines() if ";" in line]
    jobs = [line.split(";")[0] for line in lines if not line.startswith("name;")]
    deploys = [job for job in jobs if job.startswith(("deploy", "tag"))]
    if source == "push" and len(deploys) != 3:
        fault(".gitlab-ci.yml", f"main deploys by {deploys}")
    if source != "push" and deploys:
        fault(".gitlab-ci.yml", f"{deploys} in a {source}")
    for job in ("build", "lint", "test", "check-deployment", "audit", "scan-image"):
        if job not in jobs:
            fault(".gitlab-ci.yml", f"no {job} in a {source}")
    document = yaml.safe_load((root / ".gitlab-ci.yml").read_text())
    stages = re.findall(r" AS (\w+)", (root / "Dockerfile").read_text())
    for name, job in document.items():
        if not isinstance(job, dict) or not isinstance(job.get("variables"), dict):
            continue
        target = job["variables"].get("TARGET")
        if target and target not in stages:
            fault(".gitlab-ci.yml", f"{name} builds {target}, which is not in the Dockerfile")
        overlay = job["variables"].get("OVERLAY")
        if overlay and not (root / "deploy/k8s/overlays" / overlay).is_dir():
            fault(".gitlab-ci.yml", f"{name} deploys {overlay}, which is no overlay")


def main():
    what, *arguments = sys.argv[1:]
    root = pathlib.Path(arguments[-1])
    if what == "compose":
        compose(pathlib.Path(arguments[0]), arguments[1], root)
    elif what == "dockerfile":
        dockerfile(root)
    elif what == "kubernetes":
        kubernetes(pathlib.Path(arguments[0]), arguments[1], root)
    elif what == "xml":
        xml_files(root)
    elif what == "gitlab":
        gitlab(arguments[0], root)
    else:
        sys.exit(f"unknown: {what}")
    for line in faults:
        print(line)
    sys.exit(1 if faults else 0)


main()
