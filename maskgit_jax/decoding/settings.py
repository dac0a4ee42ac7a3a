"""Settings of sampling and of training masks, each declared once: flag, config key, check, docs.

This module imports no JAX, so that commands and configurations can read the declarations cheaply.
Settings are frozen and hashable, because they are static arguments of compiled programs.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from numbers import Real
from typing import Any, NamedTuple

from maskgit_jax.settings import setting, setting_range

LARGEST = 1000.0
"""Of temperatures and guidance: beyond it logits are noise, or overflow."""
TEMPERATURE_HELP = "Divides the logits before sampling; 0: always the most likely code."
TEMPERATURES = (0.7, 0.8, 0.9, 1.0, 1.1)
TOP_K, TOP_P = (0, 8, 32, 128), (0.8, 0.9, 0.95, 1.0)
TRACED = ("choice_temperature", "temperature", "last_temperature", "guidance")
"""Settings that may be arguments of a compiled program, unless they are 0; see `split_traced`."""
GUIDANCE_SCHEDULES = ("constant", "linear", "cosine", "interval")
REMASK_SCHEDULES = ("cap", "rescale", "confidence", "loop")


class Decoder(NamedTuple):
    """A registered decoding rule.

    Attributes:
        rule: (`rules.DecodeState`, settings) -> the tokens to mask for the next step, bool [B, L].
        settings: `DecodeSettings`, or a subclass with the rule's own settings.
        revises: Whether the rule may mask accepted tokens again.
        rescores: Whether some accepted tokens are masked in each step, only to be scored.
        corrects: Whether a second evaluation resamples the least confident accepted tokens.
        sharpens: Whether tokens are sampled from p^beta, see `rules.moment_order`.
    """

    rule: Callable[[Any, Any], Any]
    settings: "type[DecodeSettings]"
    revises: bool = False
    rescores: bool = False
    corrects: bool = False
    sharpens: bool = False


DECODERS: dict[str, Decoder] = {}
"""Name -> decoder; `maskgit_jax.decoding.rules` registers them."""


@dataclass(frozen=True)
class DecodeSettings:
    """Settings of parallel decoding (MaskGIT)."""

    steps: int = setting(
        8, "Number of decoding steps T.", minimum=1, candidates=(4, 6, 8, 12, 16, 24, 32)
    )
    choice_temperature: float = setting(
        4.5,
        "Scale of the Gumbel noise on the log confidences at the first step; falls linearly to 0.",
        minimum=0,
        maximum=LARGEST,
        candidates=(1.0, 2.0, 4.5, 10.0, 20.0, 40.0),
    )
    temperature: float = setting(
        1.0, TEMPERATURE_HELP, minimum=0, maximum=LARGEST, candidates=TEMPERATURES
    )
    guidance: float = setting(
        0.0,
        "Scale s of classifier-free guidance, l + s (l - l_null). "
        "0: none; diffusers' guidance_scale minus 1.",
        minimum=0,
        maximum=LARGEST,
        candidates=(0.0, 0.25, 0.5, 1.0, 2.0, 4.0),
    )
    schedule: str = setting(
        "cosine",
        "Mask ratio over the steps: linear, cosine, square, cubic, sqrt, pow<exponent>, "
        "exponential, logarithmic or arccos.",
        candidates=("cosine", "linear", "square", "sqrt", "arccos"),
    )
    decoder: str = setting(
        "confidence", "Rule that chooses the tokens to mask again.", choices=DECODERS
    )
    last_temperature: float = setting(
        0.0,
        "Temperature at the last step, linear from temperature; 0: constant.",
        minimum=0,
        maximum=LARGEST,
        candidates=(0.0, 0.6, 0.8, 1.2),
    )
    guidance_schedule: str = setting(
        "linear",
        "Guidance scale over the steps; but for constant and interval it rises from 0 to guidance.",
        choices=GUIDANCE_SCHEDULES,
    )
    guidance_interval: tuple[float, float] = setting(
        (0.0, 1.0),
        "low,high: guidance acts in the steps t with low < (t + 1) / T <= high "
        "(guidance_schedule=interval); the other steps cost one network evaluation.",
        candidates=((0.0, 1.0), (0.25, 1.0), (0.5, 1.0), (0.25, 0.75), (0.0, 0.5)),
    )
    remask_fraction: float = setting(
        0.2,
        "ReMDM's eta: fraction of the accepted tokens that self_critic rescores, corrector "
        "resamples and remask masks again in each step.",
        minimum=0,
        maximum=1,
        candidates=(0.05, 0.1, 0.2, 0.4),
    )
    remask_schedule: str = setting(
        "rescale",
        "Number of tokens that decoder=remask masks again: at most the fraction (cap), the "
        "fraction of the possible number (rescale, confidence), or cap in a loop at 10% masked "
        "(loop).",
        choices=REMASK_SCHEDULES,
    )
    top_k: int = setting(
        0, "Samples from the k most likely codes only; 0: all.", minimum=0, candidates=TOP_K
    )
    top_p: float = setting(
        1.0,
        "Samples from the most likely codes that make up this probability only.",
        above=0,
        maximum=1,
        candidates=TOP_P,
    )
    start_step: int = setting(
        0,
        "Step at which decoding starts, where a part of the tokens is known: the first accepts as "
        "many tokens as all steps up to it. 2 of 12 in the official class-conditional edit.",
        minimum=0,
        in_config=False,
    )
    size: tuple[int, int] | None = setting(
        None,
        "HEIGHTxWIDTH of the images in pixels; the positions of other sizes than in training are "
        "interpolated.",
        in_config=False,
    )


@dataclass(frozen=True)
class MaskingSettings:
    """Settings of the masks in training (MaskGIT and its critic), keys of `config.masking`."""

    schedule: str = setting(
        "cosine",
        "Distribution of the mask ratio: a schedule of decoding at a uniform time (linear: all "
        "ratios equally often), beta<a>,<b> (AutoNAT: beta12,3), or "
        "truncnorm<mean>,<deviation>,<minimum> (MAR: truncnorm1,0.25,0.7).",
    )
    stratified: bool = setting(
        False,
        "Whether the mask ratios of a batch are spread evenly over the distribution. Each one is "
        "distributed as without it, and gradients are less noisy.",
    )
    complementary: bool = setting(
        False,
        "Whether an image is seen twice in a step, with a mask and with its complement, so that "
        "each token is predicted once. A step uses every other image of the batch, so that its "
        "cost is the same.",
    )
    order: str = setting(
        "random",
        "Which tokens are masked: random ones, or those that come last in a randomly rotated "
        "Halton order, as with decoder=halton.",
        choices=("random", "halton"),
    )


@dataclass(frozen=True)
class AutoregressiveSettings:
    """Settings of autoregressive decoding (PixelCNN, PixelSNAIL, GPT)."""

    temperature: float = setting(
        1.0, TEMPERATURE_HELP, minimum=0, maximum=LARGEST, candidates=TEMPERATURES
    )
    top_k: int = setting(
        0, "Samples from the k most likely codes only; 0: all.", minimum=0, candidates=TOP_K
    )
    top_p: float = setting(
        1.0,
        "Samples from the most likely codes that make up this probability only.",
        above=0,
        maximum=1,
        candidates=TOP_P,
    )
    use_cache: bool = setting(
        True,
        "Uses a KV cache. Without it the tokens are the same and each costs a whole evaluation.",
        in_config=False,
    )


@dataclass(frozen=True)
class SlidingWindowSettings(AutoregressiveSettings):
    """Settings of autoregressive decoding in a sliding window (GPT)."""

    size: tuple[int, int] | None = setting(
        None,
        "HEIGHTxWIDTH of the images in pixels; larger than in training: in a sliding window, "
        "without KV cache.",
        in_config=False,
    )


@dataclass(frozen=True)
class PriorSettings:
    """Settings of sampling from the prior N(0, 1) of a VAE."""

    temperature: float = setting(
        1.0,
        "Standard deviation of the latents.",
        minimum=0,
        maximum=LARGEST,
        candidates=TEMPERATURES,
    )
    pixels: str = setting(
        "mean", "Mean of p(x | z), or a sample from it.", choices=("mean", "draw")
    )


SETTINGS = {
    "MaskGIT": DecodeSettings,
    "PixelCNN": AutoregressiveSettings,
    "PixelSNAIL": AutoregressiveSettings,
    "GPT": SlidingWindowSettings,
    "VAE": PriorSettings,
}
"""Model -> its sampling settings."""


def is_zero(value: Any) -> bool:
    """Returns whether a setting is 0; an argument of a compiled program never is."""
    return isinstance(value, Real) and value == 0


def split_traced(settings: Any) -> tuple[Any, dict[str, Any]]:
    """Returns settings with 1 in place of the values that are returned beside them.

    Programs of settings that differ in these values only are the same: `dataclasses.replace` puts
    the values in again when the program is traced. A value of 0 stays, because it means another
    program.
    """
    names = [field.name for field in dataclasses.fields(settings) if field.name in TRACED]
    values = {name: float(getattr(settings, name)) for name in names}
    traced = {name: value for name, value in values.items() if not is_zero(value)}
    return dataclasses.replace(settings, **dict.fromkeys(traced, 1.0)), traced


def split_step_settings(settings: DecodeSettings) -> tuple[DecodeSettings, dict[str, Any]]:
    """Returns the settings that need a program of one step of their own, and its other arguments.

    Those that only the plan of the steps reads are None, so that a rule that reads them fails, and
    those without effect have their defaults.
    """
    static, traced = split_traced(settings)
    traced |= {
        "choice_temperature": float(settings.choice_temperature),
        "last_temperature": float(settings.last_temperature or settings.temperature),
        "remask_fraction": float(settings.remask_fraction),
        "guidance_interval": tuple(map(float, settings.guidance_interval)),
    }
    names = (set(unused_settings(settings)) | set(traced)) - {"temperature", "guidance"}
    defaults = {name: getattr(DecodeSettings, name) for name in names}
    of_plan: dict[str, Any] = dict.fromkeys(("steps", "start_step", "schedule"))
    return dataclasses.replace(static, **defaults, **of_plan), traced


def unused_settings(settings: Any) -> list[str]:
    """Returns the names of the settings of parallel decoding that others leave without effect."""
    if not isinstance(settings, DecodeSettings):
        return []
    decoder = DECODERS[settings.decoder]
    uses_fraction = decoder.rescores or decoder.corrects or settings.decoder == "remask"
    unused = {
        "guidance_schedule": settings.guidance == 0,
        "guidance_interval": settings.guidance == 0 or settings.guidance_schedule != "interval",
        "remask_schedule": settings.decoder != "remask",
        "remask_fraction": not uses_fraction,
        "choice_temperature": settings.decoder in ("random", "halton"),
    }
    return [name for name, is_unused in unused.items() if is_unused]


class Declaration(NamedTuple):
    """A setting as a command defines it: name, type, default, help, choices (empty: any)."""

    name: str
    type: Any
    default: Any
    help: str
    choices: tuple[str, ...]


def register(
    name: str, settings: type[DecodeSettings] = DecodeSettings, **kinds: bool
) -> Callable[[Callable], Callable]:
    """Returns a decorator that registers a decoding rule as decoder `name`, see `Decoder`."""

    def decorate(rule: Callable) -> Callable:
        DECODERS[name] = Decoder(rule, settings, **kinds)
        return rule

    return decorate


def decode_settings_class() -> type[DecodeSettings]:
    """Returns `DecodeSettings` extended by the own settings of all registered rules."""
    return _combine(tuple(dict.fromkeys(decoder.settings for decoder in DECODERS.values())))


@cache
def _combine(classes: tuple[type[DecodeSettings], ...]) -> type[DecodeSettings]:
    own = tuple(cls for cls in classes if cls is not DecodeSettings)
    if not own:
        return DecodeSettings
    return dataclasses.make_dataclass("DecodeSettings", [], bases=own, frozen=True)


def declared_settings() -> list[Declaration]:
    """Returns all sampling settings, each name once; the help names the models it concerns."""
    fields: dict[str, dict[str, dataclasses.Field]] = {}
    for model, cls in (SETTINGS | {"MaskGIT": decode_settings_class()}).items():
        for field in dataclasses.fields(cls):
            fields.setdefault(field.name, {})[model] = field
    return [_declaration(name, by_model) for name, by_model in fields.items()]


def _declaration(name: str, by_model: dict[str, dataclasses.Field]) -> Declaration:
    models_of: dict[str, list[str]] = {}  # help -> models
    for model, field in by_model.items():
        allowed = setting_range(field)
        limits = f" ({allowed})" if allowed else ""
        models_of.setdefault(f"{field.metadata['help'].rstrip('.')}{limits}.", []).append(model)
    help = " ".join(f"{', '.join(models)}: {text}" for text, models in models_of.items())
    first = next(iter(by_model.values()))
    return Declaration(name, first.type, first.default, help, tuple(first.metadata["choices"]))
