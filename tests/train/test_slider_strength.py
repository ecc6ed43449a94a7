"""The strength of a batch, from the session to the gradients of every kind of adapter."""

from dataclasses import replace

import pytest
import torch

from library.config.toml_file import read_command
from library.train import checkpointing, run, stages
from library.train.objectives.denoise import denoise
from tests.train.conftest import ROOT

KINDS = {"lora": ("networks.lora", {}), "locon": ("networks.lora", {"conv_dim": "4", "conv_alpha": "2"}),
         "loha": ("networks.loha", {}), "lokr": ("networks.lokr", {}), "full": ("lycoris.kohya", {"algo": "full"})}


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """The shipped model and the example's pictures, as a run has them before the adapter is made."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(ROOT)
        argv = ["--pretrained_model_name_or_path=examples/tiny-sd", "--dataset_config=examples/slider/data.toml",
                f"--output_dir={tmp_path_factory.mktemp('out')}", "--slider_lora_target", "--network_dim=4", "--network_alpha=2",
                "--learning_rate=1e-4", "--max_train_steps=10", "--seed=1"]
        checked = run.check(read_command(argv, "train_network.py"))
        made = stages.material(checked.config, checked.family, checked.plan)
        return made, checked.family, next(iter(stages.feed(made).epoch(0)))


@pytest.fixture
def session(material, request):
    """A session with an adapter of the kind that is asked for, taken off the model again afterwards."""
    made, family, _ = material
    module, args = KINDS[request.param]
    if module.startswith("lycoris"):
        pytest.importorskip("lycoris")
    network = replace(made.config.network, module=module, args=args)
    found, _ = stages.session(replace(made, config=replace(made.config, network=network)), family)
    yield found
    found.network.remove()
    made.parts.denoiser.requires_grad_(False)  # lycoris puts weights back as ones to be trained


def gradients(session, batch, strength):
    """Gradient of the plain loss of a batch at a strength, always from the same noise."""
    for parameter in session.network.parameters():
        parameter.grad = None
    torch.manual_seed(3)
    for result in denoise(session, replace(batch, strength=strength)):
        result.loss.backward()
    return {name: p.grad.clone() for name, p in session.network.named_parameters() if p.grad is not None}


def stirred(session):
    """The same session with weights as if it had learnt something."""
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in session.network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return session


def farthest(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one) / max(float(g.abs().max()) for g in one.values())


@pytest.mark.parametrize("session", KINDS, indirect=True)
def test_an_adapter_that_changes_nothing_yet_is_pulled_the_other_way_by_the_opposite_strength(session, material):
    *_, batch = material
    up, down = gradients(session, batch, 0.5), gradients(session, batch, -0.5)
    assert max(float(gradient.abs().max()) for gradient in up.values()) > 0
    assert farthest(up, {name: -gradient for name, gradient in down.items()}) < 1e-6


@pytest.mark.parametrize("session", KINDS, indirect=True)
def test_gradient_checkpointing_leaves_the_gradient_at_a_strength_as_it_is(session, material):
    made, _, batch = material
    frozen = [p.detach().clone() for p in made.parts.denoiser.parameters()]
    plain = gradients(stirred(session), batch, -0.5)
    assert farthest(plain, gradients(session, batch, 0.5)) > 0.01
    checkpointing.enable(made.parts.denoiser, [], checkpointing.checkpoint_function(session.network))
    try:
        assert farthest(plain, gradients(session, batch, -0.5)) < 1e-5
    finally:
        made.parts.denoiser.disable_gradient_checkpointing()
    assert float(session.network.multiplier) == 1.0
    base = made.parts.denoiser.parameters()
    assert all(p.grad is None and torch.equal(p, before) for p, before in zip(base, frozen, strict=True))


def test_a_compiled_layer_takes_every_strength_without_compiling_anew(material):
    made, family, _ = material
    machine = replace(made.config.machine, torch_compile=True, dynamo_backend="eager")
    session, _ = stages.session(replace(made, config=replace(made.config, machine=machine)), family)
    layer = next(one.layer for one in stirred(session).network.adapters if isinstance(one.layer, torch.nn.Linear))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled, x = torch.compile(layer, backend="eager"), torch.randn(2, layer.in_features)
    try:
        seen, graphs = [], []
        for strength in (1.0, -0.5, 0.25, 0.0):
            with session.multiplier(strength):
                seen.append(compiled(x).detach())
                assert torch.allclose(seen[-1], layer(x))
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        assert not torch.allclose(seen[0], seen[1]) and float(session.network.multiplier) == 1.0
        assert len(set(graphs)) == 1 and graphs[0] > 0
    finally:
        torch._dynamo.reset()
        session.network.remove()
        made.parts.denoiser._compiled_call_impl = None
