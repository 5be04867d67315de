"""The files of cluster/, checked without a cloud: Ray's own schema, and field by field."""

import copy
import re
import shlex
from pathlib import Path

import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.config.training import FinetuneConfig

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
JOBS = {"jobs/probe.py": ProbeConfig, "jobs/finetune.py": FinetuneConfig}


def _read(name):
    return yaml.safe_load((CLUSTER / name).read_text())


def _check_command(command):
    """A job's command line: its files are here, and its config loads; the config."""
    words = shlex.split(command)
    assert words[0] == "python"
    config = words[words.index("--config") + 1]
    assert (ROOT / words[1]).is_file()
    overrides = [word for word in words[2:] if "=" in word]
    assert len(words) == 4 + len(overrides)
    return load_config(JOBS[words[1]], ROOT / config, overrides)


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_rays_own_schema_takes_the_cluster(name):
    given = _read(name)
    prepared = prepare_config(copy.deepcopy(given))
    validate_config(prepared)
    assert prepared["provider"]["type"] == name.removesuffix(".yaml")
    broken = copy.deepcopy(given)
    broken["available_node_types"]["cpu"]["spot"] = True
    with pytest.raises(Exception, match="spot"):
        validate_config(prepare_config(broken))


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_groups_of_spot_machines_that_come_and_go(name):
    config = prepare_config(_read(name))
    types = config["available_node_types"]
    assert set(types) == {"head", "cpu", "gpu"}
    assert config["head_node_type"] == "head"
    assert types["head"]["resources"]["CPU"] == 0
    assert "GPU" not in types["cpu"]["resources"]
    assert types["gpu"]["resources"]["GPU"] == 1
    for group in ("cpu", "gpu"):
        assert types[group]["min_workers"] == 0 < types[group]["max_workers"]
        node = types[group]["node_config"]
        if name == "aws.yaml":
            assert node["InstanceMarketOptions"] == {"MarketType": "spot"}
            assert node["IamInstanceProfile"] == {"Name": "exreid-worker"}
        else:
            assert node["scheduling"]["provisioningModel"] == "SPOT"
            assert node["scheduling"]["onHostMaintenance"] == "TERMINATE"
            assert node["serviceAccounts"][0]["scopes"]
    assert sum(types[g]["max_workers"] for g in ("cpu", "gpu")) == config["max_workers"]
    assert config["docker"]["image"].endswith(":0.1.0")
    assert types["gpu"]["docker"]["worker_image"].endswith(":0.1.0-gpu")
    head, worker = config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert "--dashboard-host=127.0.0.1" in head
    assert all("RAY_AUTH_MODE=token" in command for command in (head, worker))
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    assert config["setup_commands"] == [] == config["head_setup_commands"]


def _containers(group):
    return group["template"]["spec"]["containers"]


def _check_cluster_spec(spec):
    assert set(spec) == {
        *("rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions"),
        *("headGroupSpec", "workerGroupSpecs"),
    }
    assert spec["rayVersion"] == ray.__version__
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    assert set(spec["autoscalerOptions"]) <= {
        *("version", "upscalingMode", "idleTimeoutSeconds", "resources"),
    }
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["autoscalerOptions"]["upscalingMode"] in ("Default", "Aggressive", "Conservative")
    head, groups = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert set(head) == {"rayStartParams", "template"}
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert {p["name"]: p["containerPort"] for p in _containers(head)[0]["ports"]} == {
        "gcs": 6379,
        "dashboard": 8265,
        "client": 10001,
    }
    assert [group["groupName"] for group in groups] == ["cpu", "gpu"]
    for group in [head, *groups]:
        # KubeRay hands these to `ray start` as they are: text, each.
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        assert group["template"]["spec"]["restartPolicy"] == "Never"  # autoscaler v2 asks for it
        assert group["template"]["spec"]["serviceAccountName"] == "exreid"
        (container,) = _containers(group)
        for kind in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][kind])
    for group in groups:
        assert set(group) == {
            *("groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"),
        }
        assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]
    gpu = _containers(groups[1])[0]
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert gpu["image"].endswith("-gpu")
    assert "nvidia.com/gpu" not in _containers(groups[0])[0]["resources"]["limits"]


def test_kuberay_cluster():
    manifest = _read("kuberay-cluster.yaml")
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayCluster")
    assert manifest["metadata"] == {"name": "exreid"}
    _check_cluster_spec(manifest["spec"])


def test_kuberay_job():
    manifest = _read("kuberay-job.yaml")
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    spec = manifest["spec"]
    assert set(spec) == {
        *("entrypoint", "submissionMode", "runtimeEnvYAML", "shutdownAfterJobFinishes"),
        *("ttlSecondsAfterFinished", "activeDeadlineSeconds", "backoffLimit"),
        *("submitterPodTemplate", "rayClusterSpec"),
    }
    assert spec["submissionMode"] == "K8sJobMode"
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] < spec["activeDeadlineSeconds"]
    assert spec["submitterPodTemplate"]["spec"]["restartPolicy"] in ("Never", "OnFailure")
    environment = yaml.safe_load(spec["runtimeEnvYAML"])
    assert set(environment) <= {"working_dir", "env_vars"}
    assert environment["working_dir"] == _work_folder()
    config = _check_command(spec["entrypoint"])
    assert config.output.root.startswith("s3://")
    _check_cluster_spec(spec["rayClusterSpec"])
    # The same cluster as the standing one.
    assert spec["rayClusterSpec"] == _read("kuberay-cluster.yaml")["spec"]


def _instructions():
    text = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]


def _work_folder():
    return next(rest for word, rest in _instructions() if word == "WORKDIR")


def test_dockerfile_copies_what_is_there_and_needed():
    instructions = _instructions()
    base = next(rest for word, rest in instructions if word == "ARG")
    assert base == f"BASE=rayproject/ray:{ray.__version__}-py311-cpu"
    assert ["FROM", "${BASE}"] in instructions
    kept = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")
    }
    copied = set()
    for word, rest in instructions:
        if word == "COPY":
            owner, *sources, target = rest.split()
            assert owner == "--chown=ray:users"
            assert target.startswith("./")
            for source in sources:
                assert (ROOT / source).exists(), source
            copied.update(sources)
    assert copied == kept
    # An install needs these, and a run these.
    project = (ROOT / "pyproject.toml").read_text()
    for name in re.findall(r'"(README\.md|LICENSE)"', project):
        assert name in copied
    assert {"pyproject.toml", "exreid", "configs", "jobs"} <= copied
    commands = [rest for word, rest in instructions if word == "RUN"]
    assert commands[0] == 'pip install --no-cache-dir ".[cloud]"'
    assert re.search(r"^cloud = \[", project, re.M)
    assert commands[-1] == "exreid --version"


def test_readme_commands_are_right():
    text = (CLUSTER / "README.md").read_text()
    submits = re.findall(r"^ray job submit --working-dir \. -- (.*)$", text, re.M)
    assert len(submits) >= 3
    for command in submits:
        config = _check_command(command)
        assert config.dataset.root == "s3://my-bucket/czechlynx"
        assert config.output.root == "s3://my-bucket/runs"
    for name in re.findall(r"cluster/(?:[\w-]+\.yaml|Dockerfile)", text):
        assert (ROOT / name).exists(), name
    assert f'"ray[default]=={ray.__version__}"' in text
    for base in re.findall(r"rayproject/ray:\S+", text):
        assert base.startswith(f"rayproject/ray:{ray.__version__}-py311-")
