"""The classes of COCO, as the published weights count them."""

# The 80 classes in the order of their category ids: Detectron2's.
COCO_80 = tuple(
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, "
    "stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, "
    "backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, "
    "baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, "
    "knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, "
    "chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, "
    "cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, "
    "hair drier, toothbrush".split(", ")
)

# Category ids that COCO left without objects.
EMPTY_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
# Of each of the 80 classes: results that COCO's own tools read are counted by these.
COCO_80_IDS = tuple(i for i in range(1, 91) if i not in EMPTY_IDS)


# The 17 keypoints of a person, those that a mirror swaps, and the lines between them, as places in the list.
PERSON_KEYPOINTS = tuple(
    "nose, left_eye, right_eye, left_ear, right_ear, left_shoulder, right_shoulder, left_elbow, right_elbow, "
    "left_wrist, right_wrist, left_hip, right_hip, left_knee, right_knee, left_ankle, right_ankle".split(
        ", "
    )
)
PERSON_FLIP_PAIRS = tuple((left, left + 1) for left in range(1, 17, 2))
PERSON_SKELETON = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
    *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)


def _all_ids():
    names = iter(COCO_80)
    return tuple(f"unused {i}" if i in EMPTY_IDS else next(names) for i in range(1, 91))


# One class for each category id 1 to 90, the empty ones with a name of their own: torchvision's.
COCO_90 = _all_ids()
