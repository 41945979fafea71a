"""LSTM, GRU and RNN, in one or two directions.

`X [time, batch, input]` (layout 0) or `[batch, time, input]` (layout 1), `W [directions, gates *
hidden, input]`, `R [directions, gates * hidden, hidden]`, `B [directions, 2 * gates * hidden]`.
The products with W are taken for all steps at once, before the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trimtab.engine.layout import Laid, arrange
from trimtab.engine.operators.steps import Cell, Inputs, States, run_steps
from trimtab.engine.registry import Call, operator


@dataclass(frozen=True)
class _Direction:
    """The weights of one direction, gates along the last axis.

    Attributes:
        kernel: `[input, gates * hidden]`.
        recurrent: `[hidden, gates * hidden]`.
        bias: Of the inputs, `[gates * hidden]`.
        recurrent_bias: Likewise.
        peepholes: `[3 * hidden]`, or None.
        functions: Activations, in the node's order.
        hidden: Size of a state.
    """

    kernel: Any
    recurrent: Any
    bias: Any
    recurrent_bias: Any
    peepholes: Any | None
    functions: list[Callable[[Any], Any]]
    hidden: int


@operator("RNN", trainable=(1, 2, 3))
def rnn(call: Call) -> tuple[Laid, Laid]:
    """`h' = f(x W + h R + b)`."""

    def make(weights: _Direction) -> tuple[Any, Cell]:
        def cell(x: Inputs, states: States) -> States:
            import tensorflow as tf

            return (weights.functions[0](x[0] + tf.matmul(states[0], weights.recurrent)),)

        return weights.bias + weights.recurrent_bias, cell

    outputs, states = _layer(call, make, ["Tanh"], initial=[5])
    return outputs, states[0]


@operator("GRU", trainable=(1, 2, 3))
def gru(call: Call) -> tuple[Laid, Laid]:
    """Gates in the order update, reset, candidate."""
    after = bool(call.attribute("linear_before_reset", 0))

    def make(weights: _Direction) -> tuple[Any, Cell]:
        return _gru_cell(weights, reset_after=after)

    # Cut before the loop: each step has an operator less.
    outputs, states = _layer(call, make, ["Sigmoid", "Tanh"], initial=[5], parts=3)
    return outputs, states[0]


def _gru_cell(weights: _Direction, *, reset_after: bool) -> tuple[Any, Cell]:
    """Returns the bias of the inputs and the step.

    With `reset_after` (ONNX: `linear_before_reset`) the candidate's recurrent product is reset,
    with its own bias; else the state is, before the product.
    """
    import tensorflow as tf

    hidden, (gate, candidate) = weights.hidden, weights.functions[:2]
    gates, last = weights.recurrent[:, : 2 * hidden], weights.recurrent[:, 2 * hidden :]
    own = weights.recurrent_bias[2 * hidden :]
    none = tf.zeros_like(weights.recurrent_bias[: 2 * hidden])
    shared = tf.concat([weights.recurrent_bias[: 2 * hidden], tf.zeros_like(own)], 0)

    def cell(x: Inputs, states: States) -> States:
        (state,) = states
        enter, reset, new = x
        if reset_after:
            # The bias is added to the whole product, as the bias that its kernel has.
            product = tf.matmul(state, weights.recurrent) + tf.concat([none, own], 0)
            from_state = tf.split(product, 3, -1)
            reset = gate(reset + from_state[1])
            proposed = reset * from_state[2]
        else:
            from_state = tf.split(tf.matmul(state, gates), 2, -1)
            reset = gate(reset + from_state[1])
            proposed = tf.matmul(reset * state, last) + own
        update = gate(enter + from_state[0])
        new = candidate(new + proposed)
        return (new + update * (state - new),)

    return weights.bias + shared, cell


@operator("LSTM", trainable=(1, 2, 3))
def lstm(call: Call) -> tuple[Laid, Laid, Laid]:
    """Gates in the order input, output, forget, cell; peepholes input, output, forget."""
    if call.attribute("input_forget", 0):
        raise call.unsupported("with coupled input and forget gates")
    outputs, states = _layer(call, _lstm_cell, ["Sigmoid", "Tanh", "Tanh"], initial=[5, 6])
    return outputs, states[0], states[1]


def _lstm_cell(weights: _Direction) -> tuple[Any, Cell]:
    import tensorflow as tf

    gate, candidate, squash = weights.functions[:3]
    peep = None if weights.peepholes is None else tf.split(weights.peepholes, 3)

    def cell(x: Inputs, states: States) -> States:
        state, memory = states
        enter, leave, forget, new = tf.split(x[0] + tf.matmul(state, weights.recurrent), 4, -1)
        if peep is not None:
            enter, forget = enter + peep[0] * memory, forget + peep[2] * memory
        memory = gate(forget) * memory + gate(enter) * candidate(new)
        leave = gate(leave if peep is None else leave + peep[1] * memory)
        return leave * squash(memory), memory

    return weights.bias + weights.recurrent_bias, cell


def _layer(
    call: Call,
    make: Callable[[_Direction], tuple[Any, Cell]],
    activations: list[str],
    *,
    initial: list[int],
    parts: int = 1,
) -> tuple[Laid, list[Laid]]:
    """Runs every direction and puts them together as ONNX wants them.

    Args:
        call: The node.
        make: From a direction's weights to the bias of its inputs and its step.
        activations: The operator's default ones.
        initial: Positions of the initial states among the node's inputs.
        parts: Into how many of equal size a step's inputs are cut for the cell.

    Returns:
        Y `[time, directions, batch, hidden]` and the last states `[directions, batch, hidden]`,
        or with layout 1 the batch in front.
    """
    import tensorflow as tf

    batch_first = call.attribute("layout", 0) == 1
    # Physically the time comes first, whatever the node calls it.
    data = arrange(call[0], (1, 0, 2) if batch_first else (0, 1, 2))
    lengths = tf.cast(call.tensor(4), tf.int32) if call.has(4) else None
    outputs, finals = [], []
    for index, weights in enumerate(_directions(call, activations)):
        states = tuple(_initial(call, at, index, data, weights.hidden) for at in initial)
        bias, cell = make(weights)
        product = _product(data, weights.kernel) + bias
        inputs = tuple(tf.split(product, parts, -1)) if parts > 1 else (product,)
        backward = index == 1 or call.attribute("direction", "forward") == "reverse"
        sequence, final = run_steps(cell, inputs, states, lengths, backward=backward)
        outputs.append(sequence)
        finals.append(final)
    order = (1, 2, 0, 3) if batch_first else (0, 1, 2, 3)
    state_order = (1, 0, 2) if batch_first else (0, 1, 2)
    stacked = [Laid(tf.stack(state), state_order) for state in zip(*finals, strict=True)]
    return Laid(tf.stack(outputs, 1), order), stacked


def _product(data: Any, kernel: Any) -> Any:
    """Returns `[time, batch, input] @ [input, gates]`, of matrices.

    TFLite's converter writes a file that does not load if int8 values meet float weights in a
    product of more dimensions (TensorFlow 2.21).
    """
    import tensorflow as tf

    sizes = [-1 if size is None else size for size in data.shape[:2]]
    lead = sizes if sizes.count(-1) < 2 else tf.unstack(tf.shape(data)[:2])
    flat = tf.matmul(tf.reshape(data, (-1, kernel.shape[0])), kernel)
    return tf.reshape(flat, [*lead, kernel.shape[1]])


def _initial(call: Call, position: int, direction: int, data: Any, hidden: int) -> Any:
    import tensorflow as tf

    if not call.has(position):
        # Made from the data, so that a batch of known size is known of the state too.
        batch = data.shape[1]
        return tf.zeros((tf.shape(data)[1] if batch is None else batch, hidden), data.dtype)
    batch_first = call.attribute("layout", 0) == 1
    return arrange(call[position], (1, 0, 2) if batch_first else (0, 1, 2))[direction]


def _directions(call: Call, activations: list[str]) -> list[_Direction]:
    """Cuts the weights of each direction out; a variable lies as the products want it."""
    import tensorflow as tf

    if call.attribute("clip"):
        raise call.unsupported("with clipped gates")
    count = call[1].dim(0) or 1
    kernel, recurrent = call.weight(1, (0, 2, 1)), call.weight(2, (0, 2, 1))
    width = recurrent.shape[2]
    bias = call.weight(3, (0, 1)) if call.has(3) else tf.zeros((count, 2 * width), kernel.dtype)
    names = list(call.attribute("activations") or activations * count)
    each = len(names) // count
    return [
        _Direction(
            kernel=kernel[index],
            recurrent=recurrent[index],
            bias=bias[index, :width],
            recurrent_bias=bias[index, width:],
            peepholes=call.tensor(7)[index] if call.has(7) else None,
            functions=[
                _activation(call, name) for name in names[index * each : (index + 1) * each]
            ],
            hidden=int(recurrent.shape[1]),
        )
        for index in range(count)
    ]


def _activation(call: Call, name: str) -> Callable[[Any], Any]:
    import tensorflow as tf

    known: dict[str, Callable[[Any], Any]] = {
        "sigmoid": tf.sigmoid,
        "tanh": tf.tanh,
        "relu": tf.nn.relu,
        "softsign": tf.math.softsign,
        "softplus": tf.math.softplus,
        # The standard's defaults; keras 2's hard sigmoid.
        "hardsigmoid": lambda x: tf.clip_by_value(0.2 * x + 0.5, 0.0, 1.0),
    }
    changed = call.attribute("activation_alpha") or call.attribute("activation_beta")
    if name.lower() not in known or changed:
        raise call.unsupported(f"with activation {name} of its own parameters")
    return known[name.lower()]
