"""How generated circuit boards look, and how hard they are: all of it in one place."""

from dataclasses import dataclass

Range = tuple[float, float]
Colour = tuple[float, float, float]  # BGR

# Sizes of defects in pixels, whatever the picture's. The first number of a pair is the smallest there is.
OPEN_GAP = (4.0, 14.0)  # length of trace that is missing
SHORT_WIDTH = (3.0, 10.0)
SHORT_REACH = 40.0  # two conductors farther apart than this are not bridged
BITE_RADIUS = (3.5, 9.0)
BITE_LEFT = 2.5  # of a trace's width at a mouse bite, at least
SPUR_RADIUS = (3.5, 10.0)
ISLAND_RADIUS = (5.0, 18.0)
PINHOLE_RADIUS = (2.4, 6.0)
CLEARANCE = 3  # pixels between a defect and what it must not touch
MARGIN = 8  # of a box around the pixels that changed; DeepPCB's are as generous


@dataclass(frozen=True)
class Style:
    """Ranges are drawn from uniformly, once a picture unless said otherwise. Grey levels are those of 8 bits."""

    pitch: Range  # pixels between neighbouring traces
    trace_widths: tuple[float, ...]  # of the pitch, one a net
    pad_width: Range  # of the pitch, one a component
    round_pads: float  # share of components whose pads have round ends
    pour_share: float  # share of pictures with copper poured around the traces
    tilt: Range  # degrees
    substrate: tuple[Colour, ...]
    copper_contrast: Range  # grey levels between substrate and covered copper
    bare: Colour  # pads
    silk: Colour
    edge_relief: float  # grey levels at the flanks of covered copper
    weave: Range  # grey levels of the solder mask's texture
    mottle: Range  # grey levels of slow blotches
    shade: Range  # loss of light from one side to the other
    blur: Range  # sigma in pixels
    noise: Range  # grey levels
    dust: Range  # specks in 512x512
    scratches: Range  # in 512x512
    texts: Range  # in 512x512, beside the components' names


PLAIN = Style(
    pitch=(21.0, 31.0),
    trace_widths=(0.3, 0.36, 0.43),
    pad_width=(0.5, 0.62),
    round_pads=0.3,
    pour_share=0.35,
    tilt=(-4.0, 4.0),
    substrate=((60.0, 112.0, 46.0), (84.0, 96.0, 34.0), (130.0, 84.0, 42.0), (52.0, 58.0, 118.0), (52.0, 56.0, 54.0)),
    copper_contrast=(34.0, 64.0),
    bare=(150.0, 178.0, 186.0),
    silk=(196.0, 204.0, 202.0),
    edge_relief=9.0,
    weave=(2.0, 5.0),
    mottle=(2.0, 6.0),
    shade=(0.05, 0.35),
    blur=(0.6, 1.1),
    noise=(2.0, 5.0),
    dust=(6.0, 22.0),
    scratches=(0.0, 4.0),
    texts=(0.5, 3.0),
)
AGED = Style(
    pitch=(24.0, 36.0),
    trace_widths=(0.24, 0.46),
    pad_width=(0.55, 0.7),
    round_pads=0.8,
    pour_share=0.5,
    tilt=(-9.0, 9.0),
    substrate=((58.0, 98.0, 122.0), (46.0, 80.0, 104.0), (70.0, 110.0, 116.0)),
    copper_contrast=(-24.0, -12.0),
    bare=(96.0, 122.0, 138.0),
    silk=(150.0, 176.0, 180.0),
    edge_relief=5.0,
    weave=(4.0, 8.0),
    mottle=(6.0, 12.0),
    shade=(0.3, 0.6),
    blur=(0.7, 1.2),
    noise=(3.0, 6.5),
    dust=(15.0, 35.0),
    scratches=(4.0, 12.0),
    texts=(0.5, 3.0),
)
STYLES = {"plain": PLAIN, "aged": AGED}
