"""EfficientNet, EfficientNet-Lite and EfficientNetV2 encoders in plain torch.

Read in this order: families (the published tables), scaling (how they become whole numbers), padding, blocks,
efficientnet (the encoder and `create_encoder`).
"""

from effdense.models.encoders.efficientnet import EfficientNetEncoder, create_encoder
from effdense.models.encoders.families import EncoderConfig, StageSpec, encoder_config, encoder_names
from effdense.models.encoders.scaling import compound_coefficients, scaled_encoder_config

__all__ = [
    "EfficientNetEncoder",
    "EncoderConfig",
    "StageSpec",
    "compound_coefficients",
    "create_encoder",
    "encoder_config",
    "encoder_names",
    "scaled_encoder_config",
]
