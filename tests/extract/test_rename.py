"""Rules for the names of other people's checkpoints: read, applied, reported; and presets on their families' names."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from extract.backbones.build import build_trainable, load_backbone
from extract.backbones.matching import Match, advice, compare
from extract.backbones.rename import PRESETS, read_rules
from extract.backbones.weights import load_into
from extract.config import BackboneConfig

NAMES = st.text(alphabet="abc._0123", min_size=1, max_size=12)
TEXTS = st.text(alphabet="ab.\\^$()[]*+?{}1g<>|'\"", max_size=12)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """torch's threads wait for one another spinning, which takes minutes where tests share the processor."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(model: str = "test_vit", seed: int = 3, num_classes: int = 0, **options: object) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(model, num_classes=num_classes, **options).eval()


def numbered(*names: str) -> dict[str, Tensor]:
    return {name: torch.full((1,), float(place)) for place, name in enumerate(names)}


def faces(size_px: int = 160) -> Tensor:
    return torch.randn(2, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))


# Reading


def test_a_file_of_rules(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(
        "preset = 'dino'\n"
        "drop = ['^teacher_temp$']\n"
        "[rename]\n"
        "'^layers\\.(\\d+)\\.' = 'blocks.\\1.'\n"
        "'\\.attention\\.' = '.attn.'\n"
        "[join]\n"
        "'.qkv.' = ['.q.', '.k.', '.v.']\n"
    )
    rules = read_rules(path)
    assert rules.name == str(path)
    assert rules == read_rules(str(path))
    state = numbered("module.layers.2.attention.q.weight", "module.layers.2.attention.k.weight")
    state |= numbered("module.layers.2.attention.v.weight", "norm.bias", "teacher_temp", "head.mlp.weight")
    new = rules.apply(state)
    assert set(new) == {"blocks.2.attn.qkv.weight", "norm.bias"}
    assert new["blocks.2.attn.qkv.weight"].tolist() == [0.0, 1.0, 0.0]


def test_rules_run_in_order() -> None:
    rules = read_rules("[rename]\n'^a' = 'b'\n'^b' = 'c'\n")
    assert [rules.new_name(name) for name in ("a", "b", "x.a")] == ["c", "c", "x.a"]


def test_the_rules_in_the_documentation() -> None:
    """Its example can be read, and its list of presets is whole."""
    page = Path(__file__).parents[2].joinpath("docs/backbones.md").read_text(encoding="utf-8")
    example = next(text for text in re.findall(r"^```toml\n(.*?)^```$", page, re.DOTALL | re.M) if "[rename]" in text)
    assert read_rules(example).new_name("module.encoder.layer.3.attn.q.bias") == "blocks.3.attn.q.bias"
    assert all(f"`{name}`" in page for name in PRESETS)


def test_presets_by_name() -> None:
    assert all(read_rules(name) is rules for name, rules in PRESETS.items())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("none.toml", r"no such file of rules, and the presets are insightface, .*huggingface-vit"),
        ("insightfase", r"did you mean insightface"),
        ("a" * 5000, r"no such file of rules"),
        ("[rename\n", r"not TOML \(.*put expressions in single quotes"),
        ('[rename]\n"\\d" = "x"\n', r"not TOML \(.*put expressions in single quotes"),
        ("renames = 1", r"unknown key 'renames'; known are preset, drop, rename, join"),
        ("preset = 'x'", r"preset 'x' is not one of insightface"),
        ("preset = ['x']", r"preset \['x'\] is not one of insightface"),
        ("drop = 'x'", r"drop is a list of expressions"),
        ("drop = ['(']", r"drop '\(' is no regular expression"),
        ("drop = ['[[a]']", r"drop '\[\[a\]' is no regular expression \(Possible nested set"),
        ("rename = ['x']", r"\[rename\] is a table of lines"),
        ("[rename]\na.b = 'c'", r"\[rename\] is a table of lines .*names with a dot in quotes"),
        ("[rename]\n'a(' = 'c'", r"rename 'a\(' is no regular expression"),
        ("[rename]\n'a' = '\\1'", r"'\\\\1' cannot replace 'a' \(invalid group reference"),
        ("[rename]\n'a' = '\\g<x>'", r"cannot replace 'a'"),
        ("[join]\n'a' = 'b'", r"\[join\] is a table of lines"),
        ("[join]\n'a' = ['b']", r"\[join\] 'a' wants two different pieces"),
        ("[join]\n'a' = ['b', 'b']", r"\[join\] 'a' wants two different pieces"),
    ],
)
def test_bad_rules(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        read_rules(text)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"rules\.toml: not a text file; rules are TOML"):
        read_rules(tmp_path / "rules.toml")


def lines(drop: list[str], rename: Mapping[str, str]) -> str:
    """Rules as a file has them; JSON's strings are TOML's."""
    table = "".join(f"{json.dumps(old)} = {json.dumps(new)}\n" for old, new in rename.items())
    return f"drop = {json.dumps(drop)}\n[rename]\n{table}"


@given(drop=st.lists(TEXTS, max_size=2), rename=st.dictionaries(TEXTS, TEXTS, max_size=3), name=NAMES)
def test_rules_are_understood_or_refused_when_read(drop: list[str], rename: dict[str, str], name: str) -> None:
    """What is accepted can be applied to any name; what is not is one clear line, never another kind of error."""
    rules, said = None, ""
    try:
        rules = read_rules(lines(drop, rename))
    except ValueError as error:
        said = str(error)
    if rules is None:
        assert said.startswith("rename rules: ")
        assert "\n" not in said
        return
    expected: str | None = name
    for old, new in rename.items():
        expected = re.sub(old, new, expected or "")
    assert rules.new_name(name) == (None if any(re.search(text, name) for text in drop) else expected)


@settings(max_examples=25)  # a process for every example
@given(st.sets(NAMES, min_size=1, max_size=6), st.text(alphabet="xyz.$(+", min_size=1, max_size=5))
def test_a_prefix_put_on_and_taken_off(names: set[str], prefix: str) -> None:
    """Nothing is lost, nothing is exchanged, whatever the letters mean in an expression."""
    state = numbered(*sorted(names))
    put_on = read_rules(lines([], {"^": prefix.replace("\\", "\\\\")})).apply(state)
    assert set(put_on) == {prefix + name for name in names}
    taken_off = read_rules(lines([], {"^" + re.escape(prefix): ""})).apply(put_on)
    assert {name: value.item() for name, value in taken_off.items()} == {n: v.item() for n, v in state.items()}


# Applying


def test_two_tensors_of_one_name() -> None:
    rules = read_rules("[rename]\n'\\d' = ''\n")
    with pytest.raises(
        ValueError, match=r"rename rules: a1 and a2 would both be called a; make the expressions narrow"
    ):
        rules.apply(numbered("a1", "a2"))


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (numbered("x.q", "x.k"), r"\[join\] 'qkv' found x\.q but no x\.v"),
        (
            {"x.q": torch.ones(2, 2), "x.k": torch.ones(2, 3), "x.v": torch.ones(2, 2)},
            r"cannot join \[2, 2\] and \[2, 3\]",
        ),
    ],
)
def test_what_cannot_be_joined(state: dict[str, Tensor], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_rules("[join]\n'qkv' = ['q', 'k', 'v']\n").apply(state)


# The report


def test_the_report(tmp_path: Path) -> None:
    module = made()
    state = module.state_dict()
    state["norm.weight"] = torch.ones(3)
    del state["blocks.0.norm1.bias"]
    state |= {f"decoder.{number}": torch.ones(2) for number in range(7)}
    match = compare(module, state)
    lost = 64 + 64
    total = sum(value.numel() for value in module.state_dict().values())
    assert match.share == pytest.approx(1 - lost / total)
    assert (match.missing, match.mismatched) == (("blocks.0.norm1.bias",), (("norm.weight", (3,), (64,)),))
    assert len(match.matched) == len(module.state_dict()) - 2 == match.num_wanted - 2
    assert match.print_lines() == [
        f"matched      {match.num_wanted - 2} of {match.num_wanted} tensors, {match.share:.1%} of the parameters",
        "missing      1: blocks.0.norm1.bias",
        "left over    7: decoder.0, decoder.1, decoder.2, decoder.3, decoder.4, and 2 more",
        "other shape  1: norm.weight [3], model [64]",
    ]
    said = json.loads(json.dumps(match.to_json()))
    assert (said["matched"], said["missing"]) == (len(match.matched), ["blocks.0.norm1.bias"])
    assert said["mismatched"] == [{"name": "norm.weight", "checkpoint": [3], "model": [64]}]
    assert compare(module, module.state_dict()).print_lines() == [
        f"matched      {match.num_wanted} of {match.num_wanted} tensors, 100.0% of the parameters"
    ]


@pytest.mark.parametrize(
    ("rename", "says"),
    [
        (lambda name: f"net.trunk.{name}", r"the rule '\^net\\\.trunk\\\.' = '' matches 78 more"),
        (lambda name: name.replace("blocks.", "layers."), r"the rule '\^layers\\\.' = 'blocks\.' matches 72 more"),
        (lambda name: f"module.backbone.{name}".replace(".backbone.head.", ".head."), "^$"),  # found without rules
        (lambda name: f"entirely.{hash(name)}", "^$"),
    ],
)
def test_advice(rename: object, says: str, tmp_path: Path) -> None:
    state = {rename(name): value for name, value in made(num_classes=4).state_dict().items()}
    if "module.backbone." in next(iter(state)):
        torch.save(state, tmp_path / "weights.pt")
        assert load(tmp_path, "test_vit").width == 64
        return
    assert re.search(says, advice(made(), state))
    with pytest.raises(ValueError, match=r"0 of 78|6 of 78") as caught:
        load_into(made(), state, Path("weights.pt"), "test_vit")
    assert says == "^$" or re.search(says, str(caught.value))


def test_the_advised_rule_helps(tmp_path: Path) -> None:
    """It can be copied from the message into a file as it stands."""
    theirs = made(num_classes=4)
    state = {f"net.(1).{name}": value for name, value in theirs.state_dict().items()}
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="the rule") as caught:
        build_trainable("test_vit", 2, None, "weights.pt", folder=tmp_path)
    rule = re.search(r"the rule ('.*' = '.*') matches", str(caught.value))
    assert rule is not None
    (tmp_path / "rules.toml").write_text(f"[rename]\n{rule[1]}\n")
    rules = read_rules(tmp_path / "rules.toml")
    trainable, _ = build_trainable("test_vit", 2, None, "weights.pt", folder=tmp_path, rename=rules)
    assert trainable.matched is not None
    assert trainable.matched.is_whole
    theirs.reset_classifier(0)
    torch.testing.assert_close(trainable.eval().backbone(faces()), theirs(faces()), rtol=0, atol=0)


def load(folder: Path, model: str) -> object:
    return load_backbone("face", BackboneConfig(model=model, weights="weights.pt"), folder)


# How much has to match


def partly(share: float) -> dict[str, Tensor]:
    """A test_vit's first tensors, up to `share` of its numbers."""
    state = made().state_dict()
    total, kept, found = sum(value.numel() for value in state.values()), 0, {}
    for name, value in state.items():
        if kept + value.numel() <= share * total:
            found[name], kept = value, kept + value.numel()
    return found


def test_training_may_start_from_most_of_it(tmp_path: Path) -> None:
    torch.save(partly(0.7), tmp_path / "weights.pt")
    trainable, _ = build_trainable("test_vit", 2, None, "weights.pt", seed=5, folder=tmp_path)
    match = trainable.matched
    assert isinstance(match, Match)
    assert 0.5 < match.share <= 0.7
    random, _ = build_trainable("test_vit", 2, None, "random", seed=5)
    assert random.matched is None
    given = partly(0.7)
    for name, value in trainable.backbone.state_dict().items():
        expected = given[name] if name in match.matched else random.backbone.state_dict()[name]
        torch.testing.assert_close(value, expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"tensors match test_vit \(.* is missing\); weights of another model"):
        load(tmp_path, "test_vit")


def test_training_refuses_little(tmp_path: Path) -> None:
    torch.save(partly(0.4) | {"else.weight": torch.ones(2)}, tmp_path / "weights.pt")
    with pytest.raises(
        ValueError,
        match=r"\d+ of 78 tensors match test_vit \(.* is missing; else\.weight is left over\), (39|40)% of its",
    ) as caught:
        build_trainable("test_vit", 2, None, "weights.pt", folder=tmp_path)
    assert "\n" not in str(caught.value)
    assert "where 50% are wanted" in str(caught.value)


def test_a_tensor_of_another_shape_keeps_the_models_own(tmp_path: Path) -> None:
    state = made().state_dict()
    state["blocks.1.mlp.fc1.weight"] = torch.ones(7, 7)
    torch.save(state, tmp_path / "weights.pt")
    trainable, _ = build_trainable("test_vit", 2, None, "weights.pt", folder=tmp_path)
    assert trainable.matched is not None
    assert trainable.matched.mismatched == (("blocks.1.mlp.fc1.weight", (7, 7), (192, 64)),)
    with pytest.raises(ValueError, match=r"fc1\.weight is \[7, 7\] instead of \[192, 64\]"):
        load(tmp_path, "test_vit")


@pytest.mark.parametrize("init", ["random", "pretrained"])
def test_rules_want_a_file(init: str) -> None:
    with pytest.raises(ValueError, match=f"test_vit: --rename is for a file of weights, and --init is '{init}'"):
        build_trainable("test_vit", 2, None, init, rename=PRESETS["dino"])


def test_rules_that_leave_nothing(tmp_path: Path) -> None:
    torch.save(made().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="0 of 78 tensors match test_vit"):
        build_trainable("test_vit", 2, None, "weights.pt", folder=tmp_path, rename=read_rules("drop = ['.']"))


def test_what_a_teacher_learnt_is_found(tmp_path: Path) -> None:
    """DINO keeps a student and a teacher; the teacher is the one to use."""
    teacher = {f"backbone.{name}": value for name, value in made(seed=4).state_dict().items()}
    student = {f"module.backbone.{name}": value for name, value in made(seed=5).state_dict().items()}
    heads = {"head.mlp.0.weight": torch.ones(2, 2)}
    torch.save({"student": student | heads, "teacher": teacher | heads, "epoch": 3}, tmp_path / "weights.pt")
    trainable, _ = build_trainable("test_vit", 2, None, "weights.pt", folder=tmp_path, rename=PRESETS["dino"])
    assert trainable.matched is not None
    assert trainable.matched.print_lines() == ["matched      78 of 78 tensors, 100.0% of the parameters"]
    torch.testing.assert_close(trainable.eval().backbone(faces()), made(seed=4)(faces()), rtol=0, atol=0)


# Presets, each on names written down apart from the rules


def small_vit(**options: object) -> nn.Module:
    """As the small ones of torchvision and transformers below."""
    sizes = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 3, "mlp_ratio": 2}
    return made("vit_base_patch16_224", **{**sizes, **options})


def test_torchvisions_vit_gives_the_same_embeddings() -> None:
    theirs = torchvision.models.vision_transformer.VisionTransformer(64, 16, 2, 3, 48, 96, num_classes=7).eval()
    random = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.1, generator=random)
    ours = small_vit()
    match = load_into(ours, theirs.state_dict(), Path("vit.pt"), "vit", PRESETS["torchvision-vit"])
    assert len(match.print_lines()) == 1
    theirs.heads = nn.Identity()
    torch.testing.assert_close(ours(faces(64)), theirs(faces(64)), rtol=1e-5, atol=1e-5)
    older = {re.sub(r"mlp\.0\.", "mlp.linear_1.", name): value for name, value in theirs.state_dict().items()}
    older = {re.sub(r"mlp\.3\.", "mlp.linear_2.", name): value for name, value in older.items()}
    assert compare(ours, PRESETS["torchvision-vit"].apply(older)).is_whole


@pytest.mark.parametrize("model", ["resnet18", "resnet50"])
def test_torchvisions_resnets_have_timms_names(model: str) -> None:
    theirs = getattr(torchvision.models, model)().eval()
    ours = made(model)
    match = load_into(ours, theirs.state_dict(), Path("resnet.pt"), model, PRESETS["torchvision-resnet"])
    assert len(match.print_lines()) == 1
    theirs.fc = nn.Identity()
    torch.testing.assert_close(ours(faces(64)), theirs(faces(64)), rtol=1e-4, atol=1e-5)


def transformers_names(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """timm's tensors as transformers saves them."""
    found = {}
    for name, value in state.items():
        name = name.replace("cls_token", "embeddings.cls_token").replace("pos_embed", "embeddings.position_embeddings")
        name = name.replace("dist_token", "embeddings.distillation_token")
        name = name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        name = re.sub(r"^norm\.", "layernorm.", name)
        name = name.replace("blocks.", "encoder.layer.").replace("norm1", "layernorm_before")
        name = name.replace("norm2", "layernorm_after").replace("attn.proj", "attention.output.dense")
        name = name.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")
        if "attn.qkv" in name:
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[prefix + name.replace("attn.qkv", f"attention.attention.{part}")] = third
        else:
            found[prefix + name] = value
    return found


@pytest.mark.parametrize(
    ("model", "prefix", "head"),
    [
        ("vit_base_patch16_224", "vit.", "classifier.weight"),
        ("vit_base_patch16_224", "", "pooler.dense.weight"),
        ("deit_base_distilled_patch16_224", "deit.", "distillation_classifier.bias"),
    ],
)
def test_transformers_vit(model: str, prefix: str, head: str) -> None:
    """Queries, keys and values, which they keep apart, are joined in timm's order."""
    sizes = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3}
    theirs, ours = made(model, seed=4, **sizes), made(model, **sizes)
    state = transformers_names(theirs.state_dict(), prefix) | {head: torch.ones(2)}
    match = load_into(ours, state, Path("vit.pt"), model, PRESETS["huggingface-vit"])
    assert len(match.print_lines()) == 1
    torch.testing.assert_close(ours(faces(64)), theirs(faces(64)), rtol=0, atol=0)


def test_maes_encoder() -> None:
    """As its pretraining saves it: a decoder and its mask token besides."""
    theirs = made(seed=4)
    besides = (
        "mask_token",
        "decoder_pos_embed",
        "decoder_embed.weight",
        "decoder_blocks.0.norm1.bias",
        "decoder_norm.bias",
    )
    state = {**theirs.state_dict(), **numbered(*besides, "decoder_pred.bias")}
    ours = made()
    match = load_into(ours, state, Path("mae.pt"), "test_vit", PRESETS["mae"])
    assert len(match.print_lines()) == 1
    torch.testing.assert_close(ours(faces()), theirs(faces()), rtol=0, atol=0)


def clip_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A CLIP-like ViT of timm as OpenAI and open_clip save it, the tower of texts besides."""
    found = {"logit_scale": torch.ones(()), "text.token_embedding.weight": torch.ones(3, 3)}
    for name, value in state.items():
        name = (
            name.replace("norm_pre.", "ln_pre.")
            .replace("patch_embed.proj", "conv1")
            .replace("blocks", "transformer.resblocks")
        )
        name = re.sub(r"^norm\.", "ln_post.", name).replace("norm1", "ln_1").replace("norm2", "ln_2")
        name = (
            name.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj").replace("attn.qkv.", "attn.in_proj_")
        )
        name = name.replace("attn.proj", "attn.out_proj")
        if name == "pos_embed":
            name, value = "positional_embedding", value[0]
        elif name == "cls_token":
            name, value = "class_embedding", value[0, 0]
        found[f"visual.{name}"] = value
    return found


@pytest.mark.parametrize("kind", ["own", "timm"])
def test_open_clips_pictures(kind: str) -> None:
    """Both of its ways to name the tower of pictures; timm's own conversion does the rest."""
    sizes = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3}
    theirs, ours = made("vit_base_patch16_clip_224", seed=4, **sizes), made("vit_base_patch16_clip_224", **sizes)
    state = clip_names(theirs.state_dict())
    if kind == "timm":
        state = {f"visual.trunk.{name}": value for name, value in theirs.state_dict().items()}
        state |= numbered("visual.head.proj.weight", "text.ln_final.weight")
    match = load_into(ours, state, Path("clip.pt"), "vit_base_patch16_clip_224", PRESETS["open_clip"])
    assert match.is_whole
    torch.testing.assert_close(ours(faces(64)), theirs(faces(64)), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("preset", "theirs", "ours"),
    [
        ("insightface", "module.layer1.0.bn1.weight", "layer1.0.bn1.weight"),
        ("adaface", "model.input_layer.0.weight", "input_layer.0.weight"),
        ("adaface", "head.kernel", None),
        ("evolve", "module.body.0.res_layer.0.weight", "body.0.res_layer.0.weight"),
    ],
)
def test_presets_of_face_nets(preset: str, theirs: str, ours: str | None) -> None:
    """What these leave is in the names that the nets of `iresnet` know; see test_iresnet.py for the tensors."""
    assert PRESETS[preset].new_name(theirs) == ours


NEVER_ENDING = {
    "nested": "[rename]\n'^(a+)+$' = 'b'\n",
    "nested in drop": "drop = ['^(a|aa)+$']\n",
    "two beside one another": "[rename]\n'(x?a)*(x?a)*(x?a)*(x?a)*(x?a)*(x?a)*(x?a)*(x?a)*$' = 'b'\n",
}
DOUBLING = "[rename]\n" + "".join(f"'^(.*){'(?:)' * number}$' = '\\1\\1'\n" for number in range(40))


@pytest.mark.parametrize("kind", NEVER_ENDING)
def test_expressions_that_never_end_are_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract.backbones.renaming.RULES_S", 1.0)
    rules = read_rules(NEVER_ENDING[kind])
    with pytest.raises(ValueError, match=r"rename rules: the expressions take more than 1 s over 1 names"):
        rules.apply({"a" * 60 + "!": torch.zeros(1)})


def test_expressions_that_double_are_refused() -> None:
    with pytest.raises(ValueError, match="makes a name of more than 4,096 characters"):
        read_rules(DOUBLING).apply({"abc": torch.zeros(1)})


def test_rules_of_a_user_rename_as_presets_do() -> None:
    text = "drop = ['^head']\n[rename]\n'^encoder\\.(\\d+)' = 'blocks.\\1'\n"
    state = {"encoder.3.w": torch.ones(1), "head.w": torch.ones(2), "ünï": torch.ones(3)}
    assert [*read_rules(text).apply(state)] == ["blocks.3.w", "ünï"]


def test_a_pipe_is_no_file_of_rules(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rules.toml")
    with pytest.raises(ValueError, match="rules"):
        read_rules(tmp_path / "rules.toml")
