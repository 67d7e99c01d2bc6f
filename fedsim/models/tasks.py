"""Make a task from any `nn.Module`: its per-example loss and its initial parameters.

Shapes: k clients of a stack, b examples of a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional

from fedsim.core.batch import Batch, Outputs, Penalty
from fedsim.core.errors import InputError
from fedsim.core.rng import Purpose, derived_seed
from fedsim.core.task import LayerCall, Loss, StackedLoss, Task, top_class
from fedsim.core.trees import Tree
from fedsim.models.dropout import KeyedDropout, keyed
from fedsim.models.vectorized.layers import stacked_forward

LossOf = Callable[[Tensor, Tensor], Tensor]
_BATCH_NORM = nn.modules.batchnorm._BatchNorm


def classification(name: str, build: Callable[[], nn.Module]) -> Task:
    """Make a task with cross-entropy loss from a function that builds a module from x to logits.

    Raises:
        InputError: the module has BatchNorm.
    """
    return supervised(name, build, cross_entropy, hits=top_class)


def supervised(
    name: str,
    build: Callable[[], nn.Module],
    loss_of: LossOf,
    hits: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Task:
    """Make a task from a function that builds a module, and a loss of the module's outputs.

    Parameters with `requires_grad=False` are frozen: all clients share them, and updates do not
    carry them. `nn.Dropout` is made keyed (see `fedsim.models.dropout`).

    Args:
        name: of the task.
        build: makes the module; its initial weights come from torch's own generator.
        loss_of: (outputs [b, C], y [b]) -> the loss of each example [b].
        hits: the same -> whether each example is predicted correctly [b]; None for no accuracy.

    Raises:
        InputError: the module has BatchNorm, whose running statistics mix the clients' data.
    """
    skeleton = _build_seeded(build, seed=0)
    _refuse_batch_norm(name, skeleton)
    evaluating = _WithFeatures(_build_seeded(build, seed=0).eval())
    named = dict(skeleton.named_parameters())
    trainable = {key for key, value in named.items() if value.requires_grad}
    frozen = _Frozen({key: value.detach() for key, value in named.items() if key not in trainable})

    def init(seed: int) -> Tree:
        fresh = _build_seeded(build, derived_seed(seed, Purpose.INIT))
        return {k: v.detach().clone() for k, v in fresh.named_parameters() if k in trainable}

    def predict(params: Tree, x: Tensor) -> Tensor:
        return evaluating(frozen.on(x.device) | params, x).logits

    def features(params: Tree, x: Tensor) -> Tensor:
        return evaluating(frozen.on(x.device) | params, x).features

    def module(params: Tree) -> nn.Module:
        return _with_parameters(_build_plain(build, seed=0), params)  # seed 0: the frozen weights'

    return Task(
        name=name,
        init=init,
        loss=_loss(skeleton.train(), frozen, loss_of),
        stacked_loss=_stacked_loss(skeleton, frozen, loss_of),
        predict=predict,
        features=features,
        loss_of=loss_of,
        convolutional=any(isinstance(m, nn.modules.conv._ConvNd) for m in skeleton.modules()),
        hits=hits,
        module=module,
    )


def _loss(model: nn.Module, frozen: _Frozen, loss_of: LossOf) -> Loss:
    """The losses of one client's batch, by the module as it is."""
    forward = _WithFeatures(model)
    drops = [f"{key}.key" for key, m in model.named_modules() if isinstance(m, KeyedDropout)]

    def loss(params: Tree, batch: Batch, penalty: Penalty | None = None) -> Tensor:
        keys = dict.fromkeys(drops, batch.key)
        outputs = forward(frozen.on(batch.x.device) | params | keys, batch.x)
        losses = loss_of(outputs.logits, batch.y)
        if penalty is not None:
            losses = losses + penalty.of(outputs, batch.mask, *penalty.given)
        return losses

    return loss


def _stacked_loss(model: nn.Module, frozen: _Frozen, loss_of: LossOf) -> StackedLoss | None:
    """The losses of k clients' batches as one program; None if the model has no stacked form."""
    forward = stacked_forward(model)
    if forward is None:
        return None

    def stacked_loss(
        params: Tree,
        batch: Batch,
        penalty: Penalty | None = None,
        tape: list[LayerCall] | None = None,
    ) -> Tensor:
        shared = frozen.on(batch.x.device)
        features, logits = forward(params, shared, batch.x, batch.key, tape)
        losses = loss_of(logits.flatten(0, 1), batch.y.flatten()).reshape(batch.y.shape)
        if penalty is not None:
            outputs = Outputs(features, logits)
            losses = losses + vmap(penalty.of)(outputs, batch.mask, *penalty.given)
        return losses

    return stacked_loss


def load_weights(make: Callable[[Tree], Task], read: Callable[[Path | None], Tree]) -> Task:
    """Make a task whose frozen weights are read from files, or pretrained, when a run begins.

    Args:
        make: weights by name (none before the run) -> the task; its parameters must not depend on
            them.
        read: data folder -> the weights.
    """
    return replace(make({}), prepare=lambda data_dir: make(read(data_dir)))


def in_bfloat16(task: Task) -> Task:
    """The same task with layers that compute in bfloat16 in training; parameters stay float32."""

    def lower(function: Any) -> Any:
        def run(params: Tree, batch: Batch, *rest: Any) -> Tensor:
            with torch.autocast(batch.x.device.type, torch.bfloat16):
                losses: Tensor = function(params, batch, *rest)
            return losses.float()

        return run

    stacked = None if task.stacked_loss is None else lower(task.stacked_loss)
    return replace(task, loss=lower(task.loss), stacked_loss=stacked)


class _Frozen:
    """Frozen parameters, copied once to each device; copies are not pickled."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._copies: dict[torch.device, Tree] = {}

    def on(self, device: torch.device) -> Tree:
        """The parameters on that device."""
        if device.type == "cpu":
            return self._tree
        if device not in self._copies:
            self._copies[device] = {key: value.to(device) for key, value in self._tree.items()}
        return self._copies[device]

    def __getstate__(self) -> dict[str, Any]:
        return {"_tree": self._tree, "_copies": {}}


class _WithFeatures:
    """A module as a function of its parameters that also gives its last dense layer's input."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._inputs: list[Tensor] = []
        dense = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
        if dense:
            dense[-1].register_forward_pre_hook(lambda layer, given: self._inputs.append(given[0]))

    def __call__(self, weights: Tree, x: Tensor) -> Outputs:
        """The module's outputs on x; the features of one without a dense layer are its logits."""
        logits: Tensor = functional_call(self._module, weights, (x,))
        features = self._inputs[-1] if self._inputs else logits
        self._inputs.clear()
        return Outputs(features, logits)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log softmax(logits)[y] for each example, [b]."""
    return functional.cross_entropy(logits, y, reduction="none")


def _build_seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a module from a seed, with keyed dropout."""
    return keyed(_build_plain(build, seed))


def _build_plain(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a module from a seed, leaving torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def _with_parameters(model: nn.Module, params: Tree) -> nn.Module:
    """Put these parameters into a module; it is left in evaluation mode."""
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in params.items():
            own[name].copy_(value)
    return model.eval()


def _refuse_batch_norm(name: str, model: nn.Module) -> None:
    for path, layer in model.named_modules():
        if isinstance(layer, _BATCH_NORM):
            raise InputError(
                f"classification: {name} must be free of BatchNorm; got {type(layer).__name__} at "
                f"{path!r}. Use nn.GroupNorm: running statistics would mix the clients' data."
            )
