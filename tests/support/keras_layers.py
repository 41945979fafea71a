"""One tiny Keras model for each layer that edge models use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

STEPS = (7, 4)
PICTURE = (8, 8, 3)
TOKENS = 10

_ACTIVATIONS = (
    *("elu", "celu", "exponential", "glu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh"),
    *("leaky_relu", "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu"),
    *("sigmoid", "silu", "soft_shrink", "softmax", "softplus", "softsign", "sparse_plus"),
    *("sparse_sigmoid", "sparsemax", "squareplus", "tanh", "tanh_shrink", "gelu"),
)

NAMES = (
    *(
        "gelu",
        "gelu_tanh",
        "gru",
        "gru_seq",
        "gru_reset_before",
        "gru_acts",
        "gru_back",
        "gru_state",
        "gru_unroll",
        "gru_mask",
        "gru_nobias",
        "gru_free_time",
        "lstm",
        "lstm_seq",
        "lstm_state",
        "lstm_mask",
        "lstm_hard",
        "lstm_nobias",
        "bi_lstm",
        "bi_gru_seq",
        "simple_rnn",
        "simple_rnn_seq",
        "convlstm1d",
        "rnn_cells",
        "td_dense",
        "td_conv",
        "mha",
        "mha_causal",
        "gqa",
        "attention",
        "additive",
        "sep1",
        "sep2",
        "dw1",
        "dw2",
        "conv1_causal",
        "conv1_stride",
        "conv2_dil",
        "conv2_group",
        "conv2_cf",
        "conv3",
        "conv1t",
        "conv2t",
        "conv2t_valid",
        "conv2t_free",
        "ln",
        "ln_axes",
        "rms",
        "gn",
        "unit",
        "bn",
        "sn",
        "resizing",
        "resizing_nn",
        "resizing_ar",
        "center_crop",
        "up1",
        "up2",
        "up2_bil",
        "zp1",
        "zp2",
        "crop1",
        "crop2",
        "emb",
        "prelu",
        "prelu_full",
        "elu",
        "leaky",
        "relu_all",
        "softmax",
        "dropout",
        "augment",
        "permute",
        "repeat",
        "reshape",
        "flatten",
        "gap1",
        "gmp1",
        "gap2",
        "gmp2",
        "ap1",
        "ap2",
        "mp1",
        "rescale",
        "merge",
        "dot",
        "concat",
        "einsum",
        "mask_gap",
        "masking",
        "activity",
        "category",
        "discretization",
        "normalization",
    ),
    *(f"activation_{name}" for name in _ACTIVATIONS),
)


def make(name: str) -> Any:
    """Builds the model called `name`, with weights that do something."""
    return with_weights(_table()[name]())


def with_weights(model: Any) -> Any:
    """Gives a model weights that do something: fresh norms and biases do nothing."""
    generator = np.random.default_rng(0)
    if model.get_weights():
        model.set_weights(
            [
                generator.uniform(0.05, 0.5, array.shape) if array.dtype.kind == "f" else array
                for array in model.get_weights()
            ]
        )
    return model


def samples(model: Any) -> np.ndarray:
    """Returns inputs: token numbers for an embedding, else noise whose last steps are zero."""
    generator = np.random.default_rng(1)
    shape = [dim or 6 for dim in model.input_shape[1:]]
    if any(layer.__class__.__name__ in ("Embedding", "CategoryEncoding") for layer in model.layers):
        array = generator.integers(1, 5, (3, *shape)).astype(model.inputs[0].dtype)
    else:
        array = generator.normal(size=(3, *shape)).astype(np.float32)
    if shape[0] == STEPS[0]:
        array[:, -2:] = 0  # what a mask hides
    return array


def _table() -> dict[str, Callable[[], Any]]:
    import keras

    L = keras.layers

    def seq(shape: tuple[int | None, ...], *layers: Any, **options: Any) -> Any:
        return keras.Sequential([keras.Input(shape, **options), *layers])

    def func(shape: tuple[int | None, ...], build: Callable[[Any], Any]) -> Any:
        tensor = keras.Input(shape)
        return keras.Model(tensor, build(tensor))

    T, I = STEPS, PICTURE
    table = {
        "gelu": lambda: seq(T, L.Dense(6, activation="gelu")),
        "gelu_tanh": lambda: func(
            T, lambda x: keras.activations.gelu(L.Dense(6)(x), approximate=True)
        ),
        "gru": lambda: seq(T, L.GRU(5)),
        "gru_seq": lambda: seq(T, L.GRU(5, return_sequences=True)),
        "gru_reset_before": lambda: seq(T, L.GRU(5, reset_after=False)),
        "gru_acts": lambda: seq(
            T, L.GRU(5, activation="relu", recurrent_activation="hard_sigmoid")
        ),
        "gru_back": lambda: seq(T, L.GRU(5, go_backwards=True, return_sequences=True)),
        "gru_state": lambda: func(T, L.GRU(5, return_state=True, return_sequences=True)),
        "gru_unroll": lambda: seq(T, L.GRU(5, unroll=True)),
        "gru_mask": lambda: seq((7,), L.Embedding(10, 4, mask_zero=True), L.GRU(5)),
        "gru_nobias": lambda: seq(T, L.GRU(5, use_bias=False)),
        "gru_free_time": lambda: seq((None, 4), L.GRU(5)),
        "lstm": lambda: seq(T, L.LSTM(5)),
        "lstm_seq": lambda: seq(T, L.LSTM(5, return_sequences=True), L.LSTM(3)),
        "lstm_state": lambda: func(T, L.LSTM(5, return_state=True)),
        "lstm_mask": lambda: seq((7,), L.Embedding(10, 4, mask_zero=True), L.LSTM(5)),
        "lstm_hard": lambda: seq(T, L.LSTM(5, recurrent_activation="hard_sigmoid")),
        "lstm_nobias": lambda: seq(T, L.LSTM(5, use_bias=False)),
        "bi_lstm": lambda: seq(T, L.Bidirectional(L.LSTM(5))),
        "bi_gru_seq": lambda: seq(
            T, L.Bidirectional(L.GRU(5, return_sequences=True), merge_mode="sum")
        ),
        "simple_rnn": lambda: seq(T, L.SimpleRNN(5)),
        "simple_rnn_seq": lambda: seq(T, L.SimpleRNN(5, return_sequences=True, activation="relu")),
        "convlstm1d": lambda: seq((4, 8, 3), L.ConvLSTM1D(2, 3)),
        "rnn_cells": lambda: seq(T, L.RNN([L.GRUCell(4), L.LSTMCell(3)])),
        "td_dense": lambda: seq(T, L.TimeDistributed(L.Dense(3))),
        "td_conv": lambda: seq((4, 8, 8, 3), L.TimeDistributed(L.Conv2D(3, 3))),
        "mha": lambda: func(T, lambda x: L.MultiHeadAttention(2, 4)(x, x)),
        "mha_causal": lambda: func(
            T, lambda x: L.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)
        ),
        "gqa": lambda: func(T, lambda x: L.GroupQueryAttention(4, 4, 2)(x, x)),
        "attention": lambda: func(T, lambda x: L.Attention()([x, x])),
        "additive": lambda: func(T, lambda x: L.AdditiveAttention()([x, x])),
        "sep1": lambda: seq((16, 4), L.SeparableConv1D(5, 3)),
        "sep2": lambda: seq(I, L.SeparableConv2D(5, 3, strides=2, padding="same")),
        "dw1": lambda: seq((16, 4), L.DepthwiseConv1D(3)),
        "dw2": lambda: seq(I, L.DepthwiseConv2D(3, depth_multiplier=2, padding="same")),
        "conv1_causal": lambda: seq((16, 4), L.Conv1D(5, 3, padding="causal", dilation_rate=2)),
        "conv1_stride": lambda: seq((16, 4), L.Conv1D(5, 3, strides=2, padding="same")),
        "conv2_dil": lambda: seq(I, L.Conv2D(5, 3, dilation_rate=2, padding="same")),
        "conv2_group": lambda: seq((8, 8, 4), L.Conv2D(6, 3, groups=2)),
        "conv2_cf": lambda: seq(
            (8, 8, 3), L.Permute((3, 1, 2)), L.Permute((2, 3, 1)), L.Conv2D(4, 3)
        ),
        "conv3": lambda: seq((6, 6, 6, 2), L.Conv3D(3, 3), L.MaxPooling3D(2)),
        "conv1t": lambda: seq((8, 4), L.Conv1DTranspose(5, 3, strides=2, padding="same")),
        "conv2t": lambda: seq(I, L.Conv2DTranspose(5, 3, strides=2, padding="same")),
        "conv2t_valid": lambda: seq(I, L.Conv2DTranspose(5, 3, strides=2)),
        "conv2t_free": lambda: seq(
            (None, None, 3), L.Conv2DTranspose(5, 3, strides=2, padding="same")
        ),
        "ln": lambda: seq(T, L.LayerNormalization()),
        "ln_axes": lambda: seq(T, L.LayerNormalization(axis=(1, 2))),
        "rms": lambda: seq(T, L.RMSNormalization()),
        "gn": lambda: seq((8, 8, 4), L.GroupNormalization(2)),
        "unit": lambda: seq(T, L.UnitNormalization()),
        "bn": lambda: seq(I, L.BatchNormalization()),
        "sn": lambda: seq(T, L.SpectralNormalization(L.Dense(3))),
        "resizing": lambda: seq(I, L.Resizing(12, 10)),
        "resizing_nn": lambda: seq(I, L.Resizing(12, 10, interpolation="nearest")),
        "resizing_ar": lambda: seq(I, L.Resizing(12, 10, crop_to_aspect_ratio=True)),
        "center_crop": lambda: seq(I, L.CenterCrop(4, 4)),
        "up1": lambda: seq(T, L.UpSampling1D(2)),
        "up2": lambda: seq(I, L.UpSampling2D(2)),
        "up2_bil": lambda: seq(I, L.UpSampling2D(2, interpolation="bilinear")),
        "zp1": lambda: seq(T, L.ZeroPadding1D(2)),
        "zp2": lambda: seq(I, L.ZeroPadding2D(2), L.Conv2D(3, 3)),
        "crop1": lambda: seq(T, L.Cropping1D((1, 2))),
        "crop2": lambda: seq(I, L.Cropping2D(1)),
        "emb": lambda: seq((7,), L.Embedding(10, 4)),
        "prelu": lambda: seq(I, L.Conv2D(4, 3), L.PReLU(shared_axes=(1, 2))),
        "prelu_full": lambda: seq(T, L.PReLU()),
        "elu": lambda: seq(T, L.ELU(0.5)),
        "leaky": lambda: seq(T, L.LeakyReLU(0.2)),
        "relu_all": lambda: seq(T, L.ReLU(max_value=2.0, negative_slope=0.1, threshold=0.2)),
        "softmax": lambda: seq(T, L.Softmax(axis=1)),
        "dropout": lambda: seq(
            T,
            L.Dropout(0.5),
            L.SpatialDropout1D(0.3),
            L.GaussianNoise(0.1),
            L.GaussianDropout(0.1),
            L.AlphaDropout(0.1),
        ),
        "augment": lambda: seq(
            I,
            L.RandomFlip(),
            L.RandomRotation(0.1),
            L.RandomZoom(0.1),
            L.RandomTranslation(0.1, 0.1),
            L.RandomContrast(0.1),
            L.RandomBrightness(0.1),
        ),
        "permute": lambda: seq(T, L.Permute((2, 1))),
        "repeat": lambda: seq((4,), L.RepeatVector(3)),
        "reshape": lambda: seq(T, L.Reshape((14, 2))),
        "flatten": lambda: seq(I, L.Flatten()),
        "gap1": lambda: seq(T, L.GlobalAveragePooling1D()),
        "gmp1": lambda: seq(T, L.GlobalMaxPooling1D()),
        "gap2": lambda: seq(I, L.GlobalAveragePooling2D(keepdims=True)),
        "gmp2": lambda: seq(I, L.GlobalMaxPooling2D()),
        "ap1": lambda: seq(T, L.AveragePooling1D(2, padding="same")),
        "ap2": lambda: seq(I, L.AveragePooling2D(3, strides=2, padding="same")),
        "mp1": lambda: seq(T, L.MaxPooling1D(2)),
        "rescale": lambda: seq(I, L.Rescaling(1 / 255.0, offset=-1)),
        "merge": lambda: func(
            T,
            lambda x: L.Average()(
                [
                    L.Maximum()([x, L.Minimum()([x, L.Dense(4)(x)])]),
                    L.Subtract()([x, x]),
                    L.Multiply()([x, x]),
                ]
            ),
        ),
        "dot": lambda: func(T, lambda x: L.Dot(axes=2, normalize=True)([x, x])),
        "concat": lambda: func(T, lambda x: L.Concatenate(axis=1)([x, x])),
        "einsum": lambda: seq(
            T, L.EinsumDense("abc,cd->abd", output_shape=(None, 6), bias_axes="d")
        ),
        "mask_gap": lambda: seq(
            (7,), L.Embedding(10, 4, mask_zero=True), L.GlobalAveragePooling1D()
        ),
        "masking": lambda: seq(T, L.Masking(0.0), L.LSTM(3)),
        "activity": lambda: seq(T, L.ActivityRegularization(0.1)),
        "category": lambda: seq((1,), L.CategoryEncoding(5, output_mode="one_hot"), dtype="int32"),
        "discretization": lambda: seq(T, L.Discretization([0.0, 1.0, 2.0])),
        "normalization": lambda: seq(
            T, L.Normalization(mean=[1.0, 2, 3, 4], variance=[1.0, 2, 3, 4])
        ),
    }

    def activation(name: str) -> Callable[[], Any]:
        return lambda: seq(T, L.Dense(4), L.Activation(name))

    return table | {f"activation_{name}": activation(name) for name in _ACTIVATIONS}
