"""Recipes that a stranger wrote: values only, from the folder they lie in, in time and memory that a recipe needs."""

from __future__ import annotations

import os

import pytest

from tests.hostile.attack import Attack, Ground, mount
from tests.hostile.watching import PLANTED

TOP = "defaults: [lora, _self_]\n"


def recipe(text: str, *words: str, top: str = TOP):  # type: ignore[no-untyped-def]
    """A recipe file with this text, run on a sound model and sound rows."""

    def lay(ground: Ground) -> list[str]:
        filled = text.replace("@SHELL", ground.shell()).replace("@SECRET", str(ground.secret))
        ground.write("r.yaml", top + filled.replace("@PLANTED", PLANTED).replace("@OUTSIDE", str(ground.outside)))
        return ["train", "recipe=./r.yaml", *ground.sound(), *words]

    return lay


def raw(content: bytes):  # type: ignore[no-untyped-def]
    """A recipe file with these bytes."""

    def lay(ground: Ground) -> list[str]:
        ground.write("r.yaml", content)
        return ["train", "recipe=./r.yaml", *ground.sound()]

    return lay


def typed(*words: str):  # type: ignore[no-untyped-def]
    """Overrides that somebody pasted from the internet."""

    def lay(ground: Ground) -> list[str]:
        filled = [
            word.replace("@SECRET", str(ground.secret)).replace("@OUTSIDE", str(ground.outside)) for word in words
        ]
        return ["train", "recipe=lora", *ground.sound(), *filled]

    return lay


def outside_default(ground: Ground) -> list[str]:
    (ground.outside / "evil.yaml").write_text("seed: 1\n", encoding="utf-8")
    ground.write("in/r.yaml", "defaults: [lora, ../../outside/evil, _self_]\n")
    return ["train", "recipe=in/r.yaml", *ground.sound()]


def absolute_default(ground: Ground) -> list[str]:
    (ground.outside / "evil.yaml").write_text("seed: 1\n", encoding="utf-8")
    ground.write("r.yaml", f"defaults: [lora, /{ground.outside}/evil, _self_]\n")
    return ["train", "recipe=./r.yaml", *ground.sound()]


def root_default(ground: Ground) -> list[str]:
    (ground.outside / "evil.yaml").write_text("seed: 1\n", encoding="utf-8")
    ground.write("r.yaml", f"defaults: [lora, {ground.outside}/evil, _self_]\n")
    return ["train", "recipe=./r.yaml", *ground.sound()]


def group_outside(ground: Ground) -> list[str]:
    (ground.outside / "evil.yaml").write_text("rank: 3\n", encoding="utf-8")
    ground.write("in/r.yaml", "defaults: [lora, {override adapter: ../../../outside/evil}, _self_]\n")
    return ["train", "recipe=in/r.yaml", *ground.sound()]


def group_file_leads_out(ground: Ground) -> list[str]:
    (ground.outside / "evil.yaml").write_text("rank: 3\n", encoding="utf-8")
    (ground.here / "adapter").mkdir()
    (ground.here / "adapter/mine.yaml").symlink_to(ground.outside / "evil.yaml")
    ground.write("r.yaml", "defaults: [lora, {override adapter: mine}, _self_]\n")
    return ["train", "recipe=./r.yaml", *ground.sound()]


def choice_outside(ground: Ground) -> list[str]:
    (ground.outside / "evil.yaml").write_text("rank: 3\n", encoding="utf-8")
    return ["train", "recipe=lora", *ground.sound(), f"adapter=../../{ground.outside}/evil"]


def directory(ground: Ground) -> list[str]:
    (ground.here / "r.yaml").mkdir()
    return ["train", "recipe=./r.yaml", *ground.sound()]


def pipe(ground: Ground) -> list[str]:
    os.mkfifo(ground.here / "r.yaml")
    return ["train", "recipe=./r.yaml", *ground.sound()]


def piped_parent(ground: Ground) -> list[str]:
    os.mkfifo(ground.here / "p.yaml")
    ground.write("r.yaml", "defaults: [p, _self_]\n")
    return ["train", "recipe=./r.yaml", *ground.sound()]


def device(ground: Ground) -> list[str]:
    (ground.here / "r.yaml").symlink_to("/dev/zero")
    return ["train", "recipe=./r.yaml", *ground.sound()]


def huge(ground: Ground) -> list[str]:
    with (ground.here / "r.yaml").open("wb") as file:
        file.write(TOP.encode())
        file.truncate(40_000_000_000)  # a sparse file: it takes no room
    return ["train", "recipe=./r.yaml", *ground.sound()]


def long_list(ground: Ground) -> list[str]:
    ground.write("r.yaml", TOP + "adapter: {targets: [" + "a," * 2_000_000 + "b]}\n")
    return ["train", "recipe=./r.yaml", *ground.sound()]


def laughs(ground: Ground) -> list[str]:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    ground.write("r.yaml", TOP + "trl:\n" + "".join(f"  {line}\n" for line in lines))
    return ["train", "recipe=./r.yaml", *ground.sound()]


def mergekit(text: str):  # type: ignore[no-untyped-def]
    """A YAML of mergekit's that the merge recipe is given."""

    def lay(ground: Ground) -> list[str]:
        filled = text.replace("@SHELL", ground.shell()).replace("@MODEL", str(ground.model))
        ground.write("m.yaml", filled.replace("@SECRET", str(ground.secret)))
        return ["train", "recipe=merge", "merge.from_mergekit=./m.yaml", "run.root=runs"]

    return lay


def mergekit_pipe(ground: Ground) -> list[str]:
    os.mkfifo(ground.here / "m.yaml")
    return ["train", "recipe=merge", "merge.from_mergekit=./m.yaml", "run.root=runs"]


LAUGHS = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    + ["merge_method: *a11"]
)
CODE = "never name code to run"
NO_KEY = "there is no such key"
PLAIN = "plain values only"

ATTACKS = [
    # keys that Hydra's instantiate would call
    Attack("target", recipe("model: {_target_: os.system, command: '@SHELL'}\n"), rf"model\._target_.*r\.yaml.*{CODE}"),
    Attack("target-deep", recipe("trl: {optim_args: {a: [{_target_: os.system}]}}\n"), CODE),
    Attack("target-top", recipe("_target_: @PLANTED.run\n"), CODE),
    Attack("partial", recipe("adapter: {_partial_: true, rank: 2}\n"), rf"adapter\._partial_.*{CODE}"),
    Attack("recursive", recipe("adapter: {_recursive_: true}\n"), rf"adapter\._recursive_.*{CODE}"),
    Attack("convert", recipe("adapter: {_convert_: all}\n"), rf"adapter\._convert_.*{CODE}"),
    Attack("args", recipe("adapter: {_args_: ['@SHELL']}\n"), rf"adapter\._args_.*{CODE}"),
    Attack("target-typed", typed("+model._target_=os.system"), r"`\+model\._target_=os\.system`.*a key has no \+"),
    # Hydra's own settings
    Attack("hydra-run", recipe("hydra: {run: {dir: '@OUTSIDE'}}\n"), r"hydra \(from \./r\.yaml\): is not a key"),
    Attack("hydra-job", recipe("hydra: {job: {env_set: {PYTHONSTARTUP: x}}}\n"), r"hydra .*is not a key of a recipe"),
    Attack("hydra-callbacks", recipe("hydra: {callbacks: {a: {_target_: os.system}}}\n"), r"hydra .*is not a key"),
    Attack("searchpath", recipe("hydra: {searchpath: ['pkg://@PLANTED']}\n"), r"hydra .*is not a key"),
    Attack(
        "searchpath-typed", typed("hydra.searchpath=[pkg://planted_by_a_stranger]"), rf"hydra\.searchpath.*{NO_KEY}"
    ),
    Attack("hydra-launcher", recipe("", top="defaults: [lora, {override hydra/launcher: x}, _self_]\n"), "of hydra"),
    Attack("hydra-at", recipe("", top="defaults: [lora, {/hydra/launcher@x: basic}, _self_]\n"), "hydra"),
    # defaults that leave the folder
    Attack("default-outside", outside_default, r"defaults.*in/r\.yaml.*leaves its folder"),
    Attack("default-absolute", absolute_default, r"defaults.*leaves its folder"),
    Attack("default-root", root_default, r"r\.yaml.*no such file"),
    Attack("default-group-outside", group_outside, r"defaults.*in/r\.yaml.*leaves its folder"),
    Attack("default-link-out", group_file_leads_out, r"adapter/mine\.yaml.*link that leads out"),
    Attack("choice-outside", choice_outside, r"adapter.*outside/evil"),
    Attack(
        "default-interpolated", recipe("", top="defaults: [lora, {adapter: '${oc.env:HF_TOKEN}'}]\n"), r"may not hold"
    ),
    Attack("default-itself", recipe("", top="defaults: [r, _self_]\n"), r"r\.yaml"),
    # resolvers
    Attack("env", recipe("data: {split: 'x-${oc.env:HF_TOKEN}'}\n"), r"data\.split .*HF_TOKEN"),
    Attack("env-nested", recipe("data: {split: '${oc.env:${data.config}}', config: HF_TOKEN}\n"), r"data\.split"),
    Attack("env-default", recipe("data: {split: '${oc.env:HOME,${oc.env:HF_TOKEN}}'}\n"), r"data\.split"),
    Attack("decode", recipe("data: {split: \"${oc.decode:'${oc.env:HF_TOKEN}'}\"}\n"), r"data\.split.*only to keys"),
    Attack("hydra-resolver", recipe("data: {split: '${hydra:runtime.cwd}'}\n"), r"data\.split.*only to keys"),
    Attack("python-resolver", recipe("data: {split: '${python:@SHELL}'}\n"), r"data\.split"),
    Attack("create-resolver", recipe("data: {split: '${oc.create:{a:1}}'}\n"), r"data\.split"),
    Attack("env-typed", typed("data.split=${oc.env:HF_TOKEN}"), r"data\.split .*command line.*HF_TOKEN"),
    # YAML's own ways to make objects
    Attack("tag-apply", recipe("seed: !!python/object/apply:os.system ['@SHELL']\n"), rf"r\.yaml line 2.*{PLAIN}"),
    Attack("tag-new", recipe("seed: !!python/object/new:os.system ['@SHELL']\n"), rf"r\.yaml line 2.*{PLAIN}"),
    Attack("tag-name", recipe("seed: !!python/name:os.system\n"), rf"r\.yaml line 2.*{PLAIN}"),
    Attack("tag-module", recipe("seed: !!python/module:@PLANTED\n"), rf"r\.yaml line 2.*{PLAIN}"),
    Attack("tag-object", recipe("seed: !!python/object:@PLANTED.X {}\n"), rf"r\.yaml line 2.*{PLAIN}"),
    Attack("tag-own", recipe("seed: !include '@SECRET'\n"), rf"r\.yaml line 2.*{PLAIN}"),
    Attack("tag-env", recipe("seed: !ENV '${HF_TOKEN}'\n"), rf"r\.yaml.*{PLAIN}"),
    # YAML that is too much
    Attack("laughs", laughs, r"r\.yaml.*anchors"),
    Attack("circle", recipe("trl: &a {b: *a}\n"), r"r\.yaml.*(itself|anchor)"),
    Attack("deep", raw(TOP.encode() + b"trl: " + b"[" * 5_000 + b"]" * 5_000), r"r\.yaml.*nested"),
    Attack("deep-blocks", raw(TOP.encode() + b"trl: " + b"{a: " * 20_000), r"r\.yaml.*nested"),
    Attack("huge-file", huge, r"r\.yaml.*MB"),
    Attack("long-list", long_list, r"r\.yaml.*MB"),
    Attack("huge-int", recipe(f"seed: {'9' * 100_000}\n"), r"r\.yaml|seed"),
    Attack("huge-int-typed", typed(f"seed={'9' * 100_000}"), r"seed"),
    Attack("huge-float", recipe("optimizer: {learning_rate: 1e999999}\n"), r"optimizer\.learning_rate"),
    Attack("sexagesimal", recipe("seed: 1" + ":59" * 3_000 + "\n"), r"line 2: holds a number"),
    Attack("duplicate", recipe("seed: 1\nseed: 2\n"), r"r\.yaml line 3.*duplicate key seed"),
    Attack("merge-key", recipe("x: &x {_target_: os.system}\nmodel: {<<: *x}\n"), CODE),
    # bytes
    Attack("nul", raw(TOP.encode() + b"seed: 1\0\n"), r"r\.yaml"),
    Attack("not-utf8", raw(TOP.encode() + b"stage: \xff\xfe\xfa\n"), r"r\.yaml"),
    Attack("utf16", raw((TOP + "_target_: os.system\n").encode("utf-16")), r"r\.yaml|_target_"),
    Attack("bom", raw("\ufeff".encode() + (TOP + "_target_: os.system\n").encode()), CODE),
    Attack("binary", raw(bytes(range(256)) * 16), r"r\.yaml"),
    Attack("documents", raw(TOP.encode() + b"---\n_target_: os.system\n"), r"r\.yaml"),
    # no file at all
    Attack("directory", directory, r"r\.yaml: is a directory"),
    Attack("fifo", pipe, r"r\.yaml"),
    Attack("fifo-parent", piped_parent, r"r\.yaml.*name p, and there is no such file"),
    Attack("device", device, r"r\.yaml"),
    # the command line
    Attack("plus-plus", typed("++model.trust_remote_code=true"), r"a key has no \+"),
    Attack("tilde", typed("~checkpoint"), r"a key has no ~"),
    Attack("newline-key", typed("model\n.name=x"), r"is no key|is not of the form"),
    Attack("newline-value", typed("stage=lora\n_target_: os.system"), r"stage"),
    Attack("stage-path", typed("stage=../../planted_by_a_stranger"), r"there is no stage"),
    Attack("stage-module", typed("stage=os"), r"there is no stage os"),
    Attack("grammar-function", typed("seed=extend_list(1,2)"), r"seed"),
    Attack("grammar-bomb", typed("trl.optim_args=" + "[" * 3_000), r"trl\.optim_args"),
    Attack("escape-codes", typed("\x1b]52;c;aGk=\x07seed=1"), r"is no key"),
    Attack("escape-value", typed("stage=\x1b[2J\u202elora"), r"there is no stage"),
    # options of TRL that write, call or send
    Attack("trl-output", typed("trl.output_dir=@OUTSIDE"), r"trl\.output_dir.*run\.root"),
    Attack("trl-logging", typed("trl.logging_dir=@OUTSIDE"), r"trl\.logging_dir"),
    Attack("trl-push", typed("trl.push_to_hub=true"), r"trl\.push_to_hub"),
    Attack("trl-token", typed("trl.hub_token=x"), r"trl\.hub_token"),
    Attack("trl-deepspeed", typed("trl.deepspeed=@SECRET"), r"trl\.deepspeed"),
    Attack("trl-fsdp", typed("trl.fsdp_config=@SECRET"), r"trl\.fsdp_config"),
    Attack("trl-accelerator", typed("trl.accelerator_config=@SECRET"), r"trl\.accelerator_config"),
    Attack("trl-remote-code", typed("trl.trust_remote_code=true"), r"trl\.trust_remote_code"),
    Attack("trl-init", typed("trl.model_init_kwargs={trust_remote_code: true}"), r"trl\.model_init_kwargs"),
    Attack("trl-callbacks", recipe("trl: {callbacks: [@PLANTED.Callback]}\n"), r"trl\.callbacks.*no such option"),
    Attack("trl-optimizer-class", recipe("trl: {optimizer_cls_and_kwargs: @PLANTED}\n"), r"no such option"),
    Attack("trl-resume", typed("trl.resume_from_checkpoint=@OUTSIDE"), r"trl\.resume_from_checkpoint"),
    Attack("trl-template", typed("trl.chat_template_path=@SECRET"), r"trl\.chat_template_path"),
    Attack("trl-report", typed("trl.report_to=[wandb]"), r"trl\.report_to.*report_to"),
    # mergekit's files
    Attack("mergekit-tag", mergekit("merge_method: !!python/object/apply:os.system ['@SHELL']\n"), r"m\.yaml"),
    Attack("mergekit-laughs", mergekit(LAUGHS), r"merge\.from_mergekit.*m\.yaml.*anchors"),
    Attack("mergekit-deep", mergekit("models: " + "[" * 5_000), r"merge\.from_mergekit.*m\.yaml"),
    Attack("mergekit-fifo", mergekit_pipe, r"merge\.from_mergekit.*m\.yaml"),
    Attack("mergekit-secret", mergekit("merge_method: linear\nmodels: [{model: '@SECRET'}]\n"), r"secret\.txt"),
]


@pytest.mark.parametrize("attack", [pytest.param(one, id=one.name) for one in ATTACKS])
def test_a_hostile_recipe_is_refused(ground: Ground, attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2-never-to-be-seen")
    mount(attack, ground)
