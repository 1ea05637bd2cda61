"""How far images are changed before a network is shown them."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Strength:
    """How far images are changed.

    Attributes
    ----------
    scales : (float, float)
        Their least and greatest enlargement.
    largest_px : int
        Side of an image that is shown whole to the contrast (CLAHE), then cut into tiles.
    tiles : int
        Cut from an image that has room for several.
    gammas, blurs_px : (float, float)
        Least and greatest exponent of grey levels, sigma of blur.
    uneven, blurred : float
        Share of channels under uneven light, out of focus.
    shot, noise : float
        Greatest noise that grows with the signal, that does not.
    turn_deg, bend_px : float
        Greatest turn beside quarter turns, degrees; greatest standard deviation of the
        displacements that bend tissue.
    saturated : float
        Share of channels whose bright parts are cut.
    dimmest : float
        The least of the light that a channel keeps before noise comes on top.
    textured : float
        Share of channels whose fine structure is made stronger, weaker or mottled.
    painted : float
        Share of images in which some cells get a membrane, or a stain, that follows their
        labels.
    flicker : float
        Greatest standard deviation of the logarithm of one nucleus's light among others.
    """

    scales: tuple[float, float]
    largest_px: int
    tiles: int
    gammas: tuple[float, float]
    uneven: float
    blurred: float
    blurs_px: tuple[float, float]
    shot: float
    noise: float
    turn_deg: float = 0.0
    bend_px: float = 0.0
    saturated: float = 0.0
    dimmest: float = 1.0
    textured: float = 0.0
    painted: float = 0.0
    flicker: float = 0.0

    def enlarged(self, factor: float) -> "Strength":
        """Return the same for a network that sees everything so much larger."""
        low, high = self.scales
        return replace(self, scales=(low * factor, high * factor))


STRENGTHS = {
    "strong": Strength(
        scales=(0.5, 1.45),
        largest_px=384,
        tiles=2,
        gammas=(0.65, 1.5),
        uneven=0.35,
        blurred=0.4,
        blurs_px=(0.3, 1.7),
        shot=0.06,
        noise=0.03,
    ),
    "mild": Strength(
        scales=(0.62, 1.3),
        largest_px=512,
        tiles=2,
        gammas=(0.75, 1.35),
        uneven=0.25,
        blurred=0.3,
        blurs_px=(0.3, 1.2),
        shot=0.04,
        noise=0.02,
    ),
    "wide": Strength(
        scales=(0.62, 1.6),
        largest_px=512,
        tiles=2,
        gammas=(0.65, 1.5),
        uneven=0.3,
        blurred=0.3,
        blurs_px=(0.3, 1.5),
        shot=0.06,
        noise=0.03,
        turn_deg=45,
        bend_px=4,
        saturated=0.25,
        dimmest=0.35,
        textured=0.4,
        painted=0.3,
        flicker=0.3,
    ),
}
