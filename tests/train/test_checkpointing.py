import torch
from torch import nn

from library.train.checkpointing import checkpoint_function


class Adapted(nn.Module):
    """A linear layer with a low-rank part at a multiplier, like an adapter."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.base, self.low = nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 4, bias=False)
        self.multiplier = 1.0

    def set_multiplier(self, multiplier):
        self.multiplier = multiplier

    def forward(self, x):
        # What follows the adapter saves tensors that hold the multiplier: these are what a recomputation may get wrong.
        return (self.base(x) + self.multiplier * self.low(x)).sin() * (self.multiplier * self.low(x))


def gradient(run, model, strengths):
    model.zero_grad()
    x = torch.ones(2, 4, requires_grad=True)
    loss = torch.zeros(())
    for sign, strength in enumerate(strengths):
        model.set_multiplier(strength)
        loss = loss + run(model, x).pow(2).sum() * (-1) ** sign
    model.set_multiplier(1.0)
    loss.backward()
    return model.low.weight.grad.clone()


def test_recomputation_sees_the_multiplier_of_the_forward():
    model = Adapted()
    plain = gradient(lambda block, x: block(x), model, [-0.5])
    assert torch.equal(plain, gradient(checkpoint_function(model), model, [-0.5]))


def test_one_loss_may_hold_several_strengths():
    model = Adapted()
    plain = gradient(lambda block, x: block(x), model, [0.7, -0.7])
    assert plain.abs().max() > 0
    assert torch.allclose(plain, gradient(checkpoint_function(model), model, [0.7, -0.7]))


def test_the_multiplier_is_restored_after_backward():
    model = Adapted()
    gradient(checkpoint_function(model), model, [0.3])
    assert model.multiplier == 1.0


def test_inputs_kept_on_the_cpu_give_the_same_gradient():
    model = Adapted()
    assert torch.equal(gradient(checkpoint_function(model), model, [0.5]),
                       gradient(checkpoint_function(model, offload_to_cpu=True), model, [0.5]))
