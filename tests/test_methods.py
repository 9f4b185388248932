import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_losses import INF, SPECS, close, compute, example, weights
from test_plugins import imports_afresh

from retell import losses
from retell.errors import RecipeError
from retell.methods import LOSSES, Method, open_loss
from retell.mixes import LOSS_NAMES
from retell.plugins import Plugin


def test_the_names_known_without_torch_are_those_of_the_losses() -> None:
    assert set(LOSS_NAMES) == LOSSES.keys()


# By name


@pytest.mark.parametrize("spec", SPECS)
def test_a_local_loss_may_be_computed_in_pieces(spec: str) -> None:
    method = open_loss(spec)
    inputs = example()
    whole = compute(spec, *inputs)
    pieces = [
        [compute(spec, *(values[b : b + 1, t : t + 2] for values in inputs)).loss_BT for t in (0, 2, 4)]
        for b in range(3)
    ]
    same = torch.equal(torch.cat([torch.cat(row, dim=1) for row in pieces]), whole.loss_BT)
    assert same is method.local


def fields(method: Method) -> tuple[object, ...]:
    return method.reference, method.entropy, method.local, method.anchor, method.updates, method.others


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("sft", (None, False, True, 0, 1, "")),
        ("dft,power=2", (None, False, True, 0, 1, "")),
        ("is", ("behaviour", False, True, 0, 1, "")),
        ("is,others=dft", ("behaviour", False, True, 0, 1, "dft")),
        ("iw_sft", ("base", False, False, 0, 1, "")),
        ("iw_sft,level=token", ("base", False, True, 0, 1, "")),
        ("psft", ("snapshot", False, True, 0, 4, "")),
        ("psft,updates=2", ("snapshot", False, True, 0, 2, "")),
        ("asft", (None, False, True, 0.05, 1, "")),
        ("asft,kl=0.1", (None, False, True, 0.1, 1, "")),
        ("eaft", (None, True, True, 0, 1, "")),
        ("power", (None, False, True, 0, 1, "")),
        ("luffy", (None, False, True, 0, 1, "")),
        ("chord", (None, False, True, 0, 1, "")),
    ],
)
def test_a_method_says_what_it_needs(spec: str, expected: tuple[object, ...]) -> None:
    method = open_loss(spec)
    assert fields(method) == expected
    assert (method.name, method.spec, method.version) == (spec.partition(",")[0], spec, "")


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("dft,power=2,floor=0.1", {"power": 2, "floor": 0.1}),
        ("is,clip=0.7,others=sft", {"clip": 0.7, "others": "sft"}),
        ("iw_sft,level=token,high=1.1", {"level": "token", "high": 1.1}),
        ("psft,high=0.05,updates=8", {"high": 0.05, "updates": 8}),
        ("eaft,alpha=2", {"alpha": 2}),
        ("power,alpha=0.2,above=0.3", {"alpha": 0.2, "above": 0.3}),
        ("luffy,gamma=2", {"gamma": 2}),
    ],
)
def test_the_options_of_a_spec_reach_the_function(spec: str, options: dict[str, float]) -> None:
    logp, mask, reference, entropy = example()
    loss = LOSSES[open_loss(spec).name]
    third = [reference] if loss.reference else [entropy] if loss.entropy else []
    expected = loss.function(logp, mask, *third, **options)
    terms = compute(spec, logp, mask, reference, entropy)
    assert torch.equal(terms.loss_BT, expected.loss_BT)
    assert not torch.equal(terms.loss_BT, loss.function(logp, mask, *third).loss_BT)


@pytest.mark.parametrize(
    "spec", ["dft,floor=0.5,power=2", " dft , power = 2.0, floor=.50 ", "dft,power=2e0,floor=5e-1"]
)
def test_equal_requests_have_equal_specs(spec: str) -> None:
    assert open_loss(spec).spec == "dft,floor=0.5,power=2"


@given(power=st.floats(0, 1e3, exclude_min=True), floor=st.floats(0, 1))
def test_a_spec_opens_what_it_came_from(power: float, floor: float) -> None:
    method = open_loss(f"dft,power={power!r},floor={floor!r}")
    logp, mask, *_ = example()
    assert open_loss(method.spec).spec == method.spec
    assert torch.equal(
        open_loss(method.spec).compute(logp, mask).loss_BT, losses.dft(logp, mask, power=power, floor=floor).loss_BT
    )


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("dtf", "unknown loss 'dtf': did you mean dft?"),
        ("iw-sft", "unknown loss 'iw-sft': did you mean iw_sft?"),
        ("DFT", "unknown loss 'DFT': did you mean dft?"),
        ("zzz", "unknown loss 'zzz': known are sft, dft, is, iw_sft"),
        ("", "unknown loss '': known are sft, dft, is, iw_sft"),
        ("dft,powr=2", "unknown option 'powr': did you mean power?"),
        ("dft,zzz=2", "unknown option 'zzz': known are floor, power"),
        ("sft,power=2", "unknown option 'power': sft has none"),
        ("iw_sft,low=0.1", "unknown option 'low': known are level, high"),
        ("dft,power", "'power' is no option: write key=value"),
        ("dft,", "'' is no option: write key=value"),
        ("dft,power=2,power=2", "power is given twice: keep one"),
        ("dft,power=two", "power = 'two': give a finite number above 0"),
        ("dft,power=", "power = '': give a finite number above 0"),
        ("dft,power=0", "power = '0': give a finite number above 0"),
        ("dft,power=nan", "power = 'nan': give a finite number above 0"),
        ("dft,power=inf", "power = 'inf': give a finite number above 0"),
        ("dft,power=1e999", "power = '1e999': give a finite number above 0"),
        ("dft,floor=1.01", "floor = '1.01': give a finite number from 0 to 1"),
        ("dft,floor=-0.1", "floor = '-0.1': give a finite number from 0 to 1"),
        ("dft,floor=nan", "floor = 'nan': give a finite number from 0 to 1"),
        ("is,clip=0", "clip = '0': give a finite number above 0"),
        ("is,others=luffy", "others = 'luffy': give dft or sft"),
        ("is,others=", "others = '': give dft or sft"),
        ("iw_sft,level=row", "level = 'row': give sequence or token"),
        ("iw_sft,high=0.9", "high = '0.9': give a finite number of 1 or more"),
        ("psft,high=0", "high = '0': give a finite number above 0"),
        ("psft,updates=1", "updates = '1': give a whole number of 2 or more, or the ratio is always 1"),
        ("psft,updates=2.5", "updates = '2.5': give a whole number of 2 or more"),
        ("asft,kl=-1", "kl = '-1': give a finite number above 0"),
        ("eaft,alpha=0", "alpha = '0': give a finite number above 0"),
        ("power,alpha=0", "alpha = '0': give a finite number above 0"),
        ("power,above=1", "above = '1': give a finite number of at least 0 and below 1"),
        ("luffy,gamma=0", "gamma = '0': give a finite number above 0"),
    ],
)
def test_a_spec_that_cannot_be_used_is_refused(spec: str, words: str) -> None:
    with pytest.raises(RecipeError) as found:
        open_loss(spec)
    assert words in str(found.value)
    assert "\n" not in str(found.value)


def test_the_bounds_themselves_are_allowed() -> None:
    for spec in ("dft,floor=0", "dft,floor=1", "power,above=0", "psft,updates=2", "iw_sft,high=1"):
        open_loss(spec)


# A function of one's own


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, from which modules are imported afresh."""
    with imports_afresh(tmp_path, monkeypatch):
        yield tmp_path


def mine(home: Path, code: str) -> None:
    (home / "my_loss.py").write_text(f"import torch\nfrom retell.losses import Terms\n{code}\n", encoding="utf-8")


def test_a_function_in_the_working_directory_is_a_loss(home: Path) -> None:
    mine(home, "def focal(logp_BT, mask_BT): return -(1 - logp_BT.exp()) * logp_BT")
    method = open_loss("my_loss:focal")
    assert (method.spec, method.name) == ("my_loss:focal", "my_loss:focal")
    assert fields(method) == (None, False, False, 0, 1, "")
    logp, mask, *_ = example()
    close(method.compute(logp, mask).loss_BT, (logp.exp() - 1) * logp * mask)
    assert not method.compute(logp, mask).clipped_BT.any()


def test_an_edited_function_is_another_version(home: Path) -> None:
    mine(home, "def f(logp_BT, mask_BT, *, by=1.0): return -logp_BT")
    before = open_loss("my_loss:f,by=2").version
    assert before == Plugin("loss", "my_loss:f", ()).version()
    mine(home, "def f(logp_BT, mask_BT, *, by=1.0): return -logp_BT * by")
    del sys.modules["my_loss"]
    assert open_loss("my_loss:f,by=2").version not in ("", before)


def test_a_functions_options_are_its_keyword_only_parameters(home: Path) -> None:
    mine(
        home,
        "def scaled(logp_BT, mask_BT, *, by: float = 1, n=2, kind='a', kl=0.5, flag=False, name='x'):\n"
        "    assert (type(by), type(n), type(kind), type(flag)) == (float, int, str, bool)\n"
        "    return -by * n * logp_BT",
    )
    method = open_loss("my_loss:scaled,n=3,name=y,kind=b,by=2")
    assert method.spec == "my_loss:scaled,by=2,kind=b,n=3,name=y"
    assert method.anchor == 0  # an option that is called as one of ours has no meaning to the trainer
    logp, mask, *_ = example()
    close(method.compute(logp, mask).loss_BT, -6 * logp * mask)
    for option, words in (
        ("zzz=1", "unknown option 'zzz': known are by, n, kind, kl, flag, name"),
        ("logp_BT=1", "unknown option 'logp_BT'"),
        ("by=x", "by = 'x': give a finite number"),
        ("by=nan", "by = 'nan': give a finite number"),
        ("n=1.5", "n = '1.5': give a whole number"),
        ("flag=True", "flag = 'True': give its parameter an int, a float or a str as default"),
    ):
        with pytest.raises(RecipeError) as found:
            open_loss(f"my_loss:scaled,{option}")
        assert words in str(found.value)


def test_a_function_may_say_where_it_clipped_and_need_not_think_of_the_mask(home: Path) -> None:
    mine(home, "def low(logp_BT, mask_BT): return Terms(-logp_BT * logp_BT.exp(), logp_BT < -1)")
    logp, mask, *_ = example()
    method = open_loss("my_loss:low")
    expected = weights(method.compute(logp, mask), logp)
    spoiled = torch.where(mask, logp.detach(), -INF).requires_grad_()
    terms = method.compute(spoiled, mask)
    assert torch.equal(terms.clipped_BT, (logp < -1) & mask)
    assert torch.equal(weights(terms, spoiled), expected)
    mine(home, "def anywhere(logp_BT, mask_BT): return Terms(1 - logp_BT, mask_BT | True)")
    del sys.modules["my_loss"]
    terms = open_loss("my_loss:anywhere").compute(logp, mask)
    assert torch.equal(terms.loss_BT, (1 - logp) * mask)
    assert torch.equal(terms.clipped_BT, mask)
    loss = method.compute(spoiled, torch.zeros_like(mask)).loss_BT.sum()
    assert loss == 0 and loss.requires_grad


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("-logp_BT.sum()", "returned shape (): return a tensor of shape (3, 5)"),
        ("-logp_BT[:, 1:]", "returned shape (3, 4): return a tensor of shape (3, 5)"),
        ("1.5", "returned float: return a tensor of shape (3, 5)"),
        ("None", "returned NoneType: return a tensor"),
        ("(-logp_BT, mask_BT)", "returned tuple: return a tensor"),
        ("Terms(-logp_BT, mask_BT[:1])", "returned shape (1, 5): return a tensor"),
        ("-logp_BT.detach()", "returned a loss without gradient"),
        ("-logp_BT * (1 / 0)", "/my_loss.py:3: ZeroDivisionError: division by zero"),
    ],
)
def test_what_is_no_loss_is_refused(home: Path, code: str, words: str) -> None:
    mine(home, f"def wrong(logp_BT, mask_BT): return {code}")
    method = open_loss("my_loss:wrong")
    logp, mask, *_ = example()
    with pytest.raises(RecipeError) as found:
        method.compute(logp, mask)
    assert "'my_loss:wrong'" in str(found.value)
    assert words in str(found.value)


def test_a_loss_is_evaluated_without_gradient_too(home: Path) -> None:
    mine(home, "def same(logp_BT, mask_BT): return -logp_BT")
    logp, mask, *_ = example()
    with torch.no_grad():
        close(open_loss("my_loss:same").compute(logp, mask).loss_BT, -logp * mask)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("", "my_loss.py has no function 'f'"),
        ("f = 3", "my_loss.py has no function 'f'"),
        ("import no_such_thing", "my_loss cannot be imported: ModuleNotFoundError: No module named 'no_such_thing'"),
        ("1 / 0", "my_loss cannot be imported: ZeroDivisionError: division by zero"),
        ("def f(: pass", "my_loss cannot be imported: SyntaxError"),
        ("def f(logp_BT, mask_BT, *, a): pass", "loss 'my_loss:f': its option a has no default: give it one"),
        ("f = torch.where", "loss 'my_loss:f': its parameters cannot be read"),
    ],
)
def test_a_module_without_the_function_is_refused(home: Path, code: str, words: str) -> None:
    mine(home, code)
    with pytest.raises(RecipeError) as found:
        open_loss("my_loss:f")
    assert words in str(found.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [("../my_loss:f", "there is no loss '../my_loss:f': "), ("no_such:f", "loss 'no_such:f': no module ")],
)
def test_a_function_that_cannot_be_found_is_refused_with_the_losses_there_are(
    home: Path, spec: str, words: str
) -> None:
    with pytest.raises(RecipeError) as found:
        open_loss(spec)
    assert str(found.value).startswith(words)
    assert f"a loss is {', '.join(LOSSES)}, or your own as module:function" in str(found.value)
