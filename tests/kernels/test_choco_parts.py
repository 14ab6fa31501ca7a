"""choco_encode and choco_mix, one after the other, are choco_step; what they send are quantize's messages."""

from typing import Any

import pytest
import torch

from fastsaddle.kernels.op import ops, use_backend
from tests.kernels.test_halo import BACKENDS, device_of, run
from tests.kernels.test_ops import INTERPRETING, fresh

STEP = ops()["choco_step"]
SIZES = ((3, 32),) if INTERPRETING else ((1, 96), (3, 1056), (6, 544))
QUASI_GLOBAL = 2
HEADER = 128


def bits_of(levels: int) -> int:
    return next(bits for bits in (2, 4, 8) if levels < 2 ** (bits - 1))


class Parts:
    """The parts of a step, on copies of choco_step's arguments."""

    def __init__(self, arguments: dict[str, Any], backend: str) -> None:
        self.backend = backend
        self.a = fresh(arguments, device_of(backend))
        a, bits = self.a, bits_of(arguments["levels"])
        agents, columns = a["x"].shape
        self.random = {name: a[name] for name in ("seed", "step", "first_agent")}
        self.gate = {name: a[name] for name in ("norm", "active")}
        self.local = {n: a[n] for n in ("lr", "weight_decay", "beta", "kind", "nesterov")}
        self.local["maximize"] = a["maximize"]
        self.bits, self.h = bits, torch.empty_like(a["x"])
        # codes and scales lie where they are sent from
        codes, count = columns * bits // 8, len(a["buckets"])
        self.messages = torch.full((agents, HEADER + codes + 4 * count), 165, dtype=torch.uint8)
        self.messages = self.messages.to(a["x"].device)
        self.codes = self.messages[:, HEADER : HEADER + codes]
        self.scales = self.messages[:, HEADER + codes :].view(torch.float32)

    def call(self, name: str, **arguments: Any) -> None:
        with use_backend(self.backend):
            ops()[name](**arguments)

    def local_step(self) -> None:
        models = {n: self.a[n] for n in ("x", "saved", "g", "momentum")}
        self.call("local_step", **models, h=self.h, **self.local, **self.random, **self.gate)

    def encode(self, steps: bool, moves: bool) -> None:
        a = self.a
        rows = {n: a[n] if steps else None for n in ("saved", "g", "momentum")}
        rows["h"] = self.h if steps else None
        local = self.local if steps else {**self.local, "kind": 0}
        sent = {"codes": self.codes, "scales": self.scales, "signs": None}
        more = {n: a[n] for n in ("x", "x_hat", "buckets", "bucket", "levels", "squares")}
        gate = self.gate if steps else dict.fromkeys(self.gate)
        options = {"bits": self.bits, "moves": moves}
        self.call("choco_encode", **more, **rows, **local, **options, **sent, **self.random, **gate)
        if not moves:
            assert a["x_hat"].dtype == torch.float32
            code = {n: a[n] for n in ("buckets", "bucket")}
            one = torch.ones((), device=a["x"].device)
            self.call("dequantize_add", **sent, **code, bits=self.bits, weight=one, out=a["x_hat"])

    def mix(self) -> None:
        names = ("x", "saved", "x_hat", "neighbors", "weights", "lr", "mu", "gamma")
        momentum = self.a["momentum"] if self.a["kind"] == QUASI_GLOBAL else None
        given = {n: self.a[n] for n in names}
        self.call("choco_mix", **given, h=self.h, momentum=momentum, **self.random, **self.gate)

    def whole(self, moves: bool) -> dict[str, Any]:
        if self.a["mix_first"]:
            self.local_step()
            self.mix()
            self.encode(False, moves)
        else:
            self.encode(True, moves)
            self.mix()
        return {n: v.cpu() if isinstance(v, torch.Tensor) else v for n, v in self.a.items()}


@pytest.mark.parametrize("backend", BACKENDS)
def test_parts_make_the_step(backend: str, seed: int) -> None:
    for agents, columns in SIZES:
        examples = STEP.examples(agents, columns, torch.Generator().manual_seed(seed + agents))
        for variant, arguments in examples.items():
            expected = run("choco_step", arguments, backend)
            # bfloat16 copies are rounded by their owner's draws, not where messages are decoded
            halves = arguments["x_hat"].dtype == torch.bfloat16
            for moves in (True,) if halves else (True, False):
                parts = Parts(arguments, backend)
                got = parts.whole(moves)
                for name in ("x", "momentum", "x_hat", "squares"):
                    if got[name] is not None:
                        assert STEP.agrees(name, arguments, got[name], expected[name]), (
                            *(variant, agents, columns, moves, name),
                        )
                assert bool((parts.messages[:, :HEADER] == 165).all())


@pytest.mark.parametrize("backend", BACKENDS)
def test_messages_are_those_of_the_quantizer(backend: str, seed: int) -> None:
    op = ops()["choco_encode"]
    for agents, columns in SIZES:
        examples = op.examples(agents, columns, torch.Generator().manual_seed(seed + agents))
        for variant, arguments in examples.items():
            got = run("choco_encode", arguments, backend)
            model = arguments["x"] if got["h"] is None else got["h"]
            wanted = {
                "x": (model - arguments["x_hat"].float()).contiguous(),
                **{n: arguments[n] for n in ("buckets", "bucket", "bits", "levels")},
                "norm": 0,
                **{n: arguments[n] for n in ("seed", "step", "first_agent")},
                **{n: arguments[n] for n in ("codes", "scales", "signs")},
            }
            sent = run("quantize", wanted, "reference")
            for name in ("codes", "scales", "signs"):
                if sent[name] is not None:
                    assert torch.equal(got[name], sent[name]), (variant, agents, columns, name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bucket_that_is_not_finite_is_sent_as_nan(backend: str, seed: int) -> None:
    op = ops()["choco_encode"]
    examples = op.examples(3, 1056, torch.Generator().manual_seed(seed))
    for variant in ("no-step", "plain-moves", "no-step-moves-signs", "no-step-moves-bfloat16"):
        arguments = fresh(examples[variant], "cpu")
        table, (first, second) = arguments["buckets"], (0, len(arguments["buckets"]) - 1)
        for agent, bucket, bad in ((1, first, float("nan")), (2, second, float("inf"))):
            arguments["x"][agent, int(table[bucket, 0])] = bad
        expected = run("choco_encode", arguments, "reference")
        got = run("choco_encode", arguments, backend)
        assert bool(got["scales"][1, first].isnan()) and bool(got["scales"][2, second].isnan())
        assert bool(got["scales"][0].isfinite().all())
        for name in ("codes", "scales", "signs", "x_hat"):
            if got[name] is not None:
                assert op.agrees(name, arguments, got[name], expected[name]), (variant, name)


def test_a_step_is_given_whole_or_not_at_all(seed: int) -> None:
    op = ops()["choco_encode"]
    examples = op.examples(3, 96, torch.Generator().manual_seed(seed))
    stepped, alone = examples["plain-moves"], examples["no-step"]
    for wrong, got in (
        ({**stepped, "h": None}, "got g and kind 0"),
        ({**stepped, "g": None}, "got h and kind 0"),
        ({**alone, "saved": stepped["x"]}, "got saved and kind 0"),
        ({**alone, "kind": 1, "momentum": stepped["g"]}, "got none of them and kind 1"),
    ):
        before = fresh(wrong, "cpu")
        with pytest.raises(ValueError, match=f"g and h must be given together.*{got}"):
            op(*wrong.values())
        assert torch.equal(wrong["x_hat"], before["x_hat"])
    with pytest.raises(ValueError, match="h and x must not share memory"):
        op(*{**stepped, "x": (rows := torch.zeros(6, 96))[:3], "h": rows[2:5]}.values())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", ["8-bit", "4-bit", "8-bit-signs", "signs"])
def test_messages_are_decoded_where_they_lie(variant: str, backend: str, seed: int) -> None:
    """Behind headers, in one buffer with all else that has come."""
    for agents, columns in SIZES:
        generator = torch.Generator().manual_seed(seed + agents)
        arguments = ops()["dequantize_add"].examples(agents, columns, generator)[variant]
        names = [n for n in ("codes", "scales", "signs") if arguments[n] is not None]
        packed = [arguments[n].view(torch.uint8) for n in names]
        header = torch.full((agents, HEADER), 165, dtype=torch.uint8)
        messages = torch.cat([header, *packed], 1).to(device_of(backend))
        parts = messages.split([HEADER, *(p.shape[1] for p in packed)], 1)[1:]
        lying = fresh(arguments, device_of(backend))
        for name, part in zip(names, parts, strict=True):
            lying[name] = part.view(arguments[name].dtype)
        with use_backend(backend):
            ops()["dequantize_add"](*lying.values())
        assert torch.equal(lying["out"].cpu(), run("dequantize_add", arguments, backend)["out"])
