"""Tiny Keras models of the layers and arguments that `keras_layers` leaves out.

Each is a function of the keras module: names are known without importing TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

STEPS = (7, 4)
PICTURE = (8, 8, 3)
VOLUME = (4, 4, 4, 2)
CLIP = (3, 6, 6, 2)
SOUND = (1200,)

Keras = Any
Model = Any


def seq(shape: tuple[int | None, ...], *names: Any, **options: Any) -> Callable[[Keras], Model]:
    """A stack of layers, each a function of `keras.layers`."""

    def build(keras: Keras) -> Model:
        layers = [name(keras.layers) for name in names]
        return keras.Sequential([keras.Input(shape, **options), *layers])

    return build


def func(
    shape: tuple[int | None, ...], call: Callable[[Any, Any], Any]
) -> Callable[[Keras], Model]:
    """A function of `keras.layers` and the input tensor."""

    def build(keras: Keras) -> Model:
        tensor = keras.Input(shape)
        return keras.Model(tensor, call(keras.layers, tensor))

    return build


def masked(layer: Callable[[Any], Any]) -> Callable[[Keras], Model]:
    return seq(STEPS, lambda L: L.Masking(0.0), layer)


def tokens(layer: Callable[[Any], Any]) -> Callable[[Keras], Model]:
    return seq((7,), lambda L: L.Embedding(10, 4, mask_zero=True), layer)


def both_ways(mode: str | None) -> Callable[[Keras], Model]:
    return func(
        STEPS, lambda L, x: L.Bidirectional(L.GRU(5, return_sequences=True), merge_mode=mode)(x)
    )


def resized(method: str, *size: int) -> Callable[[Keras], Model]:
    return seq(PICTURE, lambda L: L.Resizing(*size, interpolation=method))


def enlarged(method: str) -> Callable[[Keras], Model]:
    return seq(PICTURE, lambda L: L.UpSampling2D((2, 3), interpolation=method))


def attention(**options: Any) -> Callable[[Keras], Model]:
    return func(STEPS, lambda L, x: L.MultiHeadAttention(2, 4, **options)(x, x))


MASKED: dict[str, Callable[[Keras], Model]] = {
    "masked_gru": masked(lambda L: L.GRU(5)),
    "masked_gru_seq": masked(lambda L: L.GRU(5, return_sequences=True)),
    "masked_gru_reset_before": masked(lambda L: L.GRU(5, reset_after=False)),
    "masked_gru_backwards": masked(lambda L: L.GRU(5, go_backwards=True, return_sequences=True)),
    "masked_lstm": masked(lambda L: L.LSTM(5)),
    "masked_lstm_seq": masked(lambda L: L.LSTM(5, return_sequences=True)),
    "masked_lstm_state": func(STEPS, lambda L, x: L.LSTM(5, return_state=True)(L.Masking()(x))),
    "masked_rnn": masked(lambda L: L.SimpleRNN(5, return_sequences=True)),
    "masked_bidirectional": masked(lambda L: L.Bidirectional(L.LSTM(5, return_sequences=True))),
    "masked_bidirectional_last": masked(lambda L: L.Bidirectional(L.GRU(5))),
    "token_lstm": tokens(lambda L: L.LSTM(5, return_sequences=True)),
    "token_bidirectional": tokens(lambda L: L.Bidirectional(L.LSTM(5))),
    "masked_free_time": seq((None, 4), lambda L: L.Masking(0.0), lambda L: L.LSTM(5)),
    "masked_with_state": func(
        STEPS,
        lambda L, x: L.LSTM(4, return_state=True)(L.Masking()(x), initial_state=[x[:, 0], x[:, 1]]),
    ),
}
"""Recurrent layers over steps of which a mask hides some."""

OTHERS: dict[str, Callable[[Keras], Model]] = {
    "bidirectional_sum": both_ways("sum"),
    "bidirectional_mul": both_ways("mul"),
    "bidirectional_ave": both_ways("ave"),
    "bidirectional_concat": both_ways("concat"),
    "bidirectional_apart": both_ways(None),
    "bidirectional_two_layers": seq(
        STEPS, lambda L: L.Bidirectional(L.LSTM(3), backward_layer=L.GRU(3, go_backwards=True))
    ),
    "rnn_of_cells": seq(STEPS, lambda L: L.RNN(L.StackedRNNCells([L.LSTMCell(4), L.GRUCell(3)]))),
    "rnn_simple_cell": seq(STEPS, lambda L: L.RNN(L.SimpleRNNCell(4), return_sequences=True)),
    "initial_state": func(
        STEPS,
        lambda L, x: L.GRU(5)(x, initial_state=L.Dense(5)(L.GlobalAveragePooling1D()(x))),
    ),
    "encoder_decoder": func(
        STEPS, lambda L, x: L.LSTM(5)(x, initial_state=L.LSTM(5, return_state=True)(x)[1:])
    ),
    "conv_lstm_1d": seq((3, 6, 2), lambda L: L.ConvLSTM1D(3, 3, return_sequences=True)),
    "conv_lstm_2d": seq(CLIP, lambda L: L.ConvLSTM2D(3, 3, padding="same")),
    "conv_lstm_3d": seq((2, 4, 4, 4, 1), lambda L: L.ConvLSTM3D(2, 2)),
    "time_distributed_lstm": seq((3, 7, 4), lambda L: L.TimeDistributed(L.LSTM(3))),
    "attention_query_value": func(
        STEPS, lambda L, x: L.MultiHeadAttention(2, 4, value_dim=3, output_shape=5)(x, x)
    ),
    "attention_no_bias": attention(use_bias=False),
    "attention_axes": func(
        (3, 7, 4), lambda L, x: L.MultiHeadAttention(2, 4, attention_axes=2)(x, x)
    ),
    "attention_scores": func(
        STEPS, lambda L, x: L.MultiHeadAttention(2, 4)(x, x, return_attention_scores=True)
    ),
    "attention_masked": func(
        STEPS, lambda L, x: L.MultiHeadAttention(2, 4)(L.Masking()(x), L.Masking()(x))
    ),
    "attention_plain_scale": func(STEPS, lambda L, x: L.Attention(use_scale=True)([x, x, x])),
    "attention_concat": func(STEPS, lambda L, x: L.Attention(score_mode="concat")([x, x])),
    "attention_additive_causal": func(
        STEPS, lambda L, x: L.AdditiveAttention()([x, x], use_causal_mask=True)
    ),
    "group_query_one_head": func(STEPS, lambda L, x: L.GroupQueryAttention(4, 4, 1)(x, x)),
    "encoder_block": func(
        STEPS,
        lambda L, x: L.LayerNormalization(epsilon=1e-6)(
            L.Add()([x, L.Dense(4)(L.Dense(8, activation="gelu")(x))])
        ),
    ),
    "layer_norm_no_scale": seq(STEPS, lambda L: L.LayerNormalization(center=False, scale=False)),
    "group_norm_1d": seq((6, 4), lambda L: L.GroupNormalization(4)),
    "group_norm_instance": seq(PICTURE, lambda L: L.GroupNormalization(-1)),
    "batch_norm_axis": seq(PICTURE, lambda L: L.BatchNormalization(axis=1)),
    "batch_norm_dense": seq((6,), lambda L: L.Dense(4), lambda L: L.BatchNormalization()),
    "unit_norm_axis": seq(STEPS, lambda L: L.UnitNormalization(axis=1)),
    "spectral_conv": seq(PICTURE, lambda L: L.SpectralNormalization(L.Conv2D(4, 3))),
    "conv_3d_same": seq(VOLUME, lambda L: L.Conv3D(3, 3, strides=2, padding="same")),
    "conv_3d_transpose": seq(VOLUME, lambda L: L.Conv3DTranspose(3, 3, strides=2, padding="same")),
    "conv_1d_transpose_valid": seq((8, 4), lambda L: L.Conv1DTranspose(5, 3, strides=3)),
    "conv_2d_transpose_padding": seq(
        PICTURE, lambda L: L.Conv2DTranspose(4, 3, strides=2, padding="same", output_padding=0)
    ),
    "conv_2d_transpose_dilated": seq(PICTURE, lambda L: L.Conv2DTranspose(4, 3, dilation_rate=2)),
    "conv_1d_group": seq((16, 4), lambda L: L.Conv1D(6, 3, groups=2, padding="same")),
    "depthwise_dilated": seq(PICTURE, lambda L: L.DepthwiseConv2D(3, dilation_rate=2)),
    "depthwise_stride": seq(PICTURE, lambda L: L.DepthwiseConv2D(3, strides=2, padding="same")),
    "separable_multiplier": seq(PICTURE, lambda L: L.SeparableConv2D(5, 3, depth_multiplier=3)),
    "resize_bilinear_up": resized("bilinear", 13, 17),
    "resize_nearest_down": resized("nearest", 5, 3),
    "resize_bicubic_up": resized("bicubic", 13, 17),
    "resize_bicubic_down": resized("bicubic", 5, 3),
    "resize_lanczos3": resized("lanczos3", 12, 10),
    "resize_lanczos5": resized("lanczos5", 12, 10),
    "resize_pad": seq((8, 6, 3), lambda L: L.Resizing(12, 12, pad_to_aspect_ratio=True)),
    "enlarge_bilinear": enlarged("bilinear"),
    "enlarge_bicubic": enlarged("bicubic"),
    "enlarge_lanczos3": enlarged("lanczos3"),
    "enlarge_nearest": enlarged("nearest"),
    "up_3d": seq(VOLUME, lambda L: L.UpSampling3D(2)),
    "drop_3d": seq(VOLUME, lambda L: L.SpatialDropout3D(0.5)),
    "crop_3d": seq(VOLUME, lambda L: L.Cropping3D(1)),
    "pad_3d": seq(VOLUME, lambda L: L.ZeroPadding3D((1, 0, 2))),
    "center_crop_larger": seq(PICTURE, lambda L: L.CenterCrop(12, 12)),
    "pool_3d": seq(VOLUME, lambda L: L.AveragePooling3D(2), lambda L: L.GlobalMaxPooling3D()),
    "global_3d": seq(VOLUME, lambda L: L.GlobalAveragePooling3D()),
    "global_max_1d": seq(STEPS, lambda L: L.GlobalMaxPooling1D(keepdims=True)),
    "max_pool_same": seq(PICTURE, lambda L: L.MaxPooling2D(3, strides=2, padding="same")),
    "max_pool_3d": seq(VOLUME, lambda L: L.MaxPooling3D(2, padding="same")),
    "adaptive_average_1d": seq((8, 3), lambda L: L.AdaptiveAveragePooling1D(3)),
    "adaptive_average_2d": seq(PICTURE, lambda L: L.AdaptiveAveragePooling2D((3, 2))),
    "adaptive_average_3d": seq(VOLUME, lambda L: L.AdaptiveAveragePooling3D(2)),
    "adaptive_max_1d": seq((8, 3), lambda L: L.AdaptiveMaxPooling1D(3)),
    "adaptive_max_2d": seq(PICTURE, lambda L: L.AdaptiveMaxPooling2D((3, 2))),
    "adaptive_max_3d": seq(VOLUME, lambda L: L.AdaptiveMaxPooling3D(2)),
    "channels_first": seq(
        (3, 8, 8),
        lambda L: L.Permute((2, 3, 1)),
        lambda L: L.Conv2D(4, 3, padding="same"),
        lambda L: L.Permute((3, 1, 2)),
    ),
    "rescaling": seq(PICTURE, lambda L: L.Rescaling([1.0, 2.0, 3.0], offset=[0.0, 1.0, 2.0])),
    "normalization_axis": seq(
        PICTURE, lambda L: L.Normalization(axis=None, mean=2.0, variance=4.0, invert=True)
    ),
    "einsum_heads": seq(
        STEPS, lambda L: L.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3), bias_axes="de")
    ),
    "einsum_flat": seq((6,), lambda L: L.EinsumDense("ab,bc->ac", output_shape=5, bias_axes="c")),
    "discretization_one_hot": seq(
        (4,), lambda L: L.Discretization([0.0, 1.0], output_mode="multi_hot")
    ),
    "category_multi_hot": seq((4,), lambda L: L.CategoryEncoding(5), dtype="int32"),
    "category_count": seq(
        (4,), lambda L: L.CategoryEncoding(5, output_mode="count"), dtype="int32"
    ),
    "embedding_pool": seq(
        (7,), lambda L: L.Embedding(10, 4), lambda L: L.GlobalAveragePooling1D(), dtype="int32"
    ),
    "reversible_embedding": seq((7,), lambda L: L.ReversibleEmbedding(10, 4), dtype="int32"),
    "mel": seq(
        SOUND, lambda L: L.MelSpectrogram(fft_length=256, sequence_stride=128, num_mel_bins=8)
    ),
    "stft_magnitude": seq((1200, 1), lambda L: L.STFTSpectrogram(frame_length=128, frame_step=64)),
    "stft_real": seq(
        (600, 1), lambda L: L.STFTSpectrogram(mode="real", frame_length=64, frame_step=32)
    ),
    "softmax_masked": func(STEPS, lambda L, x: L.Softmax(axis=(1, 2))(x)),
    "identity": seq(STEPS, lambda L: L.Identity(), lambda L: L.Dense(2)),
    "merge_all": func(
        (6,),
        lambda L, x: L.Concatenate()(
            [
                L.Add()([x, L.Dense(6)(x)]),
                L.Average()([x, L.Dense(6)(x)]),
                L.Dot(axes=1)([x, L.Dense(6)(x)]),
            ]
        ),
    ),
    "solarization": seq(PICTURE, lambda L: L.Solarization(addition_factor=0.0, value_range=(0, 1))),
    "augmentations": seq(
        PICTURE,
        lambda L: L.RandomColorDegeneration(0.5),
        lambda L: L.RandomColorJitter(),
        lambda L: L.RandomCrop(6, 5),
        lambda L: L.RandomElasticTransform(),
        lambda L: L.RandomErasing(),
        lambda L: L.RandomGaussianBlur(),
        lambda L: L.RandomGrayscale(),
        lambda L: L.RandomHue(0.5),
        lambda L: L.RandomInvert(),
        lambda L: L.RandomPerspective(),
        lambda L: L.RandomPosterization(4),
        lambda L: L.RandomSaturation(0.5),
        lambda L: L.RandomSharpness(0.5),
        lambda L: L.SpatialDropout2D(0.5),
    ),
    "auto_contrast": seq(PICTURE, lambda L: L.AutoContrast()),
    "local_equalization": seq(PICTURE, lambda L: L.ContrastLimitedAdaptiveHistogramEqualization()),
    "pipeline": seq(
        PICTURE, lambda L: L.Pipeline([L.Rescaling(0.5), L.Resizing(4, 4)]), lambda L: L.Flatten()
    ),
}

MODELS = MASKED | OTHERS
