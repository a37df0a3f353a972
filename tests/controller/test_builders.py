import pytest
from modelyard.api.names import child_name
from modelyard.controller import builders
from modelyard.controller.types import BuildSettings

SETTINGS = BuildSettings(runtime_image="runtime:1", version="1.2.3", gateway_namespace="gw", monitoring_namespace="mon")


def deployment(model, replicas=1):
    return builders.deployment(model, SETTINGS, replicas)


def pod_spec(model):
    return deployment(model)["spec"]["template"]["spec"]


def container(model):
    return pod_spec(model)["containers"][0]


def test_every_child_carries_the_models_name_labels_and_ownership(make_model):
    made = builders.children(make_model(), SETTINGS, 1)
    assert [child["kind"] for child in made] == ["ServiceAccount", "NetworkPolicy", "Service", "Deployment", "PodDisruptionBudget"]
    for child in made:
        metadata = child["metadata"]
        assert (metadata["name"], metadata["namespace"]) == ("assistant", "default")
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "modelyard"
        assert metadata["labels"]["app.kubernetes.io/version"] == "1.2.3"
        (owner,) = metadata["ownerReferences"]
        assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == ("uid-1", True, False)


def test_long_names_are_cut(make_model):
    name = "m" * 80
    for child in builders.children(make_model(name), SETTINGS, 1):
        assert child["metadata"]["name"] == child_name(name)
        assert len(child["metadata"]["name"]) <= 63


def test_the_pod_meets_the_restricted_standard(make_model):
    spec, runtime = pod_spec(make_model()), container(make_model())
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert runtime["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    assert builders.service_account(make_model(), SETTINGS)["automountServiceAccountToken"] is False


def test_the_selector_is_part_of_the_pods_labels_and_the_version_is_not(make_model):
    made = deployment(make_model(pod={"labels": {"team": "a", "modelyard.dev/model": "other"}}))
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert made["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert labels["team"] == "a"
    assert "app.kubernetes.io/version" not in labels


def test_only_flags_that_are_set_are_passed(make_model):
    assert container(make_model())["args"] == [
        "--model=builtin://tiny-chat",
        "--served-model-name=assistant",
        "--dtype=auto",
        "--max-queue=256",
        "--queue-timeout=1m",
        "--request-timeout=10m",
        "--drain-timeout=1m",
    ]


def test_every_field_of_the_engine_reaches_the_runtime(make_model):
    model = make_model(
        model={"source": "hf://a/b@main", "capabilities": ["chat", "embeddings"]},
        engine={"dtype": "float32", "maxModelLength": 2048, "maxConcurrentSequences": 4, "args": ["--seed", "7"]},
        limits={
            "maxConcurrency": 3,
            "maxQueue": 0,
            "queueTimeout": "500ms",
            "requestTimeout": "90s",
            "maxPromptTokens": 10,
            "maxNewTokens": 20,
        },
        rollout={"drainTimeout": "0s"},
    )
    assert container(model)["args"] == [
        "--model=hf://a/b@main",
        "--served-model-name=assistant",
        "--capability=chat",
        "--capability=embeddings",
        "--dtype=float32",
        "--max-model-length=2048",
        "--max-concurrent-sequences=4",
        "--max-concurrency=3",
        "--max-queue=0",
        "--queue-timeout=500ms",
        "--request-timeout=90s",
        "--max-prompt-tokens=10",
        "--max-new-tokens=20",
        "--drain-timeout=0s",
        "--seed",
        "7",
    ]


def test_fields_that_most_models_leave_out_reach_the_runtime(make_model):
    model = make_model(
        model={"source": "hf://a/b", "trustRemoteCode": True},
        engine={"quantization": "int8", "adapters": [{"name": "sql", "source": "pvc://loras/sql"}, {"name": "tone", "source": "hf://a/c"}]},
        generation={"temperature": 0.2, "topP": 0.5, "topK": 3, "minP": 0.05, "repetitionPenalty": 1.1, "maxTokens": 64, "config": "none"},
        warmup={"steps": 2, "capabilities": ["chat", "completions"], "skip": ["completions"], "memory": "1.5Gi"},
    )
    assert container(model)["args"][-17:] == [
        "--adapter=sql=file:///models/loras/sql",
        "--adapter=tone=hf://a/c",
        "--quantization=int8",
        "--trust-remote-code=true",
        "--temperature=0.2",
        "--top-p=0.5",
        "--top-k=3",
        "--min-p=0.05",
        "--repetition-penalty=1.1",
        "--default-max-tokens=64",
        "--generation-config=none",
        "--warmup=chat",
        "--warmup=completions",
        "--warmup-skip=completions",
        "--warmup-steps=2",
        "--warmup-batch=1",
        "--warmup-memory=1610612736",
    ]
    assert {"name": "weights", "mountPath": "/models/loras", "readOnly": True} in container(model)["volumeMounts"]


def test_the_runtime_knows_every_flag_that_is_planned(make_model):
    from modelyard_runtime.arguments import parse

    model = make_model(
        model={"source": "hf://a/b", "capabilities": ["chat"], "trustRemoteCode": True},
        engine={
            "quantization": "int8",
            "maxModelLength": 64,
            "maxConcurrentSequences": 2,
            "adapters": [{"name": "a", "source": "hf://a/c"}],
        },
        limits={"maxConcurrency": 1, "maxPromptTokens": 8, "maxNewTokens": 8},
        generation={"temperature": 0.2, "topP": 0.5, "topK": 3, "minP": 0.05, "repetitionPenalty": 1.1, "maxTokens": 64, "config": "none"},
        warmup={"capabilities": ["chat"], "skip": ["vision"], "memory": "512Mi"},
    )
    settings = parse(["serve", *container(model)["args"]])
    assert settings.served_model_name == "assistant"
    assert (settings.min_p, settings.repetition_penalty, settings.generation_config) == (0.05, 1.1, "none")


def test_what_is_left_out_of_generation_leaves_the_runtimes_defaults(make_model):
    args = container(make_model(generation={"minP": 0}))["args"]
    assert args[-2:] == ["--drain-timeout=1m", "--min-p=0.0"]


def test_weights_above_a_size_in_fewer_bits(make_model):
    from modelyard_runtime.arguments import parse

    args = container(make_model(engine={"quantization": "auto", "quantizeAbove": "1.5Gi"}))["args"]
    assert args[-2:] == ["--quantization=auto", "--quantize-above=1610612736"]
    settings = parse(["serve", *args])
    assert (settings.quantization, settings.quantize_above) == ("auto", "1610612736")
    assert "--quantize-above" not in " ".join(container(make_model(engine={"quantization": "auto"}))["args"])


def test_an_object_stores_keys_come_from_the_secret_by_name(make_model):
    amazon = make_model(model={"source": "s3://bucket/a", "credentialsSecret": "keys"})
    variables = {variable["name"]: variable for variable in container(amazon)["env"]}
    assert variables["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"] == {
        "name": "keys", "key": "AWS_SECRET_ACCESS_KEY", "optional": True,
    }  # fmt: skip
    assert "MODELYARD_TOKEN_FILE" not in variables
    google = make_model(model={"source": "gs://bucket/a", "credentialsSecret": "keys"})
    assert {"name": "GOOGLE_APPLICATION_CREDENTIALS", "value": "/var/run/secrets/modelyard/credentials.json"} in container(google)["env"]
    items = [{"key": "credentials.json", "path": "credentials.json"}]
    assert {"name": "token", "secret": {"secretName": "keys", "items": items}} in pod_spec(google)["volumes"]


def test_the_models_own_variables_win_and_names_are_unique(make_model):
    model = make_model(engine={"env": [{"name": "HOME", "value": "/elsewhere"}, {"name": "X", "value": "1"}, {"name": "X", "value": "2"}]})
    variables = container(model)["env"]
    names = [variable["name"] for variable in variables]
    assert len(names) == len(set(names))
    assert {"HOME": "/elsewhere", "X": "2", "MODELYARD_CACHE_DIR": "/var/cache/modelyard"}.items() <= {
        v["name"]: v["value"] for v in variables
    }.items()


def test_devices_are_requested_tolerated_and_chosen_by_product(make_model):
    model = make_model(resources={"gpu": {"count": 2, "product": "NVIDIA-H200"}, "memory": "64Gi", "cpu": "8"})
    assert container(model)["resources"] == {
        "requests": {"cpu": "8", "nvidia.com/gpu": "2", "memory": "64Gi"},
        "limits": {"nvidia.com/gpu": "2", "memory": "64Gi"},
    }
    spec = pod_spec(model)
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [{"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-H200"]}]
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}} in spec["volumes"]


def test_a_model_without_devices_sees_none(make_model):
    assert container(make_model())["resources"] == {"requests": {"cpu": "1"}}
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in container(make_model())["env"]
    assert "affinity" not in pod_spec(make_model())


@pytest.mark.parametrize(
    ("gpus", "strategy", "expected"),
    [
        (0, "Auto", {"maxSurge": 1, "maxUnavailable": 0}),
        (1, "Auto", {"maxSurge": 0, "maxUnavailable": 1}),
        (1, "Surge", {"maxSurge": 1, "maxUnavailable": 0}),
        (0, "Replace", {"maxSurge": 0, "maxUnavailable": 1}),
    ],
)
def test_a_rollout_surges_only_where_no_device_is_needed(make_model, gpus, strategy, expected):
    made = deployment(make_model(resources={"gpu": {"count": gpus}}, rollout={"strategy": strategy}))
    assert made["spec"]["strategy"] == {"type": "RollingUpdate", "rollingUpdate": expected}


def test_a_claim_is_mounted_read_only_and_read_as_files(make_model):
    model = make_model(model={"source": "pvc://weights/models/chat"})
    assert "--model=file:///models/weights/models/chat" in container(model)["args"]
    assert {"name": "weights", "persistentVolumeClaim": {"claimName": "weights", "readOnly": True}} in pod_spec(model)["volumes"]
    assert {"name": "weights", "mountPath": "/models/weights", "readOnly": True} in container(model)["volumeMounts"]


def test_credentials_come_as_a_file(make_model):
    model = make_model(model={"source": "hf://a/b", "credentialsSecret": "hub"})
    assert {"name": "MODELYARD_TOKEN_FILE", "value": "/var/run/secrets/modelyard/token"} in container(model)["env"]
    assert {"name": "token", "secret": {"secretName": "hub", "items": [{"key": "token", "path": "token"}]}} in pod_spec(model)["volumes"]
    assert all("hub" not in argument for argument in container(model)["args"])


def test_the_pods_overrides_are_merged(make_model):
    spec = pod_spec(
        make_model(
            pod={
                "nodeSelector": {"zone": "a"},
                "tolerations": [{"key": "spot", "operator": "Exists"}],
                "priorityClassName": "high",
                "runtimeClassName": "nvidia",
                "imagePullSecrets": ["registry"],
            }
        )
    )
    assert (spec["nodeSelector"], spec["priorityClassName"], spec["runtimeClassName"]) == ({"zone": "a"}, "high", "nvidia")
    assert (spec["tolerations"], spec["imagePullSecrets"]) == ([{"key": "spot", "operator": "Exists"}], [{"name": "registry"}])


def test_a_stopping_pod_has_time_to_drain(make_model):
    assert pod_spec(make_model(rollout={"drainTimeout": "90s"}))["terminationGracePeriodSeconds"] == 105


def test_the_number_of_replicas_may_be_somebody_elses(make_model):
    assert deployment(make_model(), 3)["spec"]["replicas"] == 3
    assert "replicas" not in deployment(make_model(), None)["spec"]


def test_only_gateway_and_monitoring_get_in(make_model):
    spec = builders.network_policy(make_model(), SETTINGS)["spec"]
    allowed = {
        rule["from"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]: [port["port"] for port in rule["ports"]]
        for rule in spec["ingress"]
    }
    assert allowed == {"gw": [8000, 9000], "mon": [9000]}
    assert spec["policyTypes"] == ["Ingress"]


def test_the_service_leads_to_the_pods(make_model):
    spec = builders.service(make_model(), SETTINGS)["spec"]
    assert spec["selector"] == deployment(make_model())["spec"]["selector"]["matchLabels"]
    assert spec["ports"] == [{"name": "http", "port": 8000, "targetPort": 8000, "protocol": "TCP"}]
    assert spec["clusterIP"] == "None"
