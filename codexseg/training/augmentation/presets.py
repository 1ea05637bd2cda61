"""Augmentation presets: how strongly training images are changed."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class AugmentationPreset:
    """Ranges and probabilities of all random changes of an image.

    Attributes
    ----------
    scales : (float, float)
        Smallest and largest magnification.
    max_px : int
        Largest side of an augmented image. CLAHE runs on it before tiles are cut.
    gammas, blurs_px : (float, float)
        Range of the exponent of intensities, and of the sigma of blur.
    uneven, blurred : float
        Probability that a channel gets uneven illumination, or is out of focus.
    shot, noise : float
        Maximum of the noise that grows with the signal, and of constant noise.
    tiles : int
        Number of tiles cut from an image that has room for several.
    turn_deg, bend_px : float
        Maximum rotation in addition to quarter turns, degrees; maximum standard deviation
        of the elastic displacements.
    saturated : float
        Probability that bright parts of a channel are clipped.
    min_gain : float
        Smallest factor by which a channel is dimmed before noise is added.
    textured : float
        Probability that the fine structure of a channel is amplified, weakened or mottled.
    stained : float
        Probability that some cells get a membrane or cytoplasm stain that follows their
        labels.
    flicker : float
        Maximum standard deviation of the logarithm of the brightness of single nuclei.
    """

    scales: tuple[float, float]
    max_px: int
    gammas: tuple[float, float]
    uneven: float
    blurred: float
    blurs_px: tuple[float, float]
    shot: float
    noise: float
    tiles: int = 2
    turn_deg: float = 0.0
    bend_px: float = 0.0
    saturated: float = 0.0
    min_gain: float = 1.0
    textured: float = 0.0
    stained: float = 0.0
    flicker: float = 0.0

    def upsample(self, factor: float) -> "AugmentationPreset":
        """Return this preset with all scales multiplied by a factor."""
        low, high = self.scales
        return replace(self, scales=(low * factor, high * factor))


AUGMENTATIONS = {
    "strong": AugmentationPreset(
        scales=(0.5, 1.45),
        max_px=384,
        gammas=(0.65, 1.5),
        uneven=0.35,
        blurred=0.4,
        blurs_px=(0.3, 1.7),
        shot=0.06,
        noise=0.03,
    ),
    "mild": AugmentationPreset(
        scales=(0.62, 1.3),
        max_px=512,
        gammas=(0.75, 1.35),
        uneven=0.25,
        blurred=0.3,
        blurs_px=(0.3, 1.2),
        shot=0.04,
        noise=0.02,
    ),
    "wide": AugmentationPreset(
        scales=(0.62, 1.6),
        max_px=512,
        gammas=(0.65, 1.5),
        uneven=0.3,
        blurred=0.3,
        blurs_px=(0.3, 1.5),
        shot=0.06,
        noise=0.03,
        turn_deg=45,
        bend_px=4,
        saturated=0.25,
        min_gain=0.35,
        textured=0.4,
        stained=0.3,
        flicker=0.3,
    ),
}
"""Presets by the names that recipes use."""
