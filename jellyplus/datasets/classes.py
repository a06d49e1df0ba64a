"""The names of classes by label, where a data set has them."""

from torchvision.models import ResNet18_Weights

from jellyplus.datasets import cifar10_dvs

__all__ = ["class_names"]

_CIFAR100 = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
    "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
    "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard "
    "lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear "
    "pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark "
    "shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone "
    "television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)
_GESTURES = (  # 1 to 11 of gesture_mapping.csv, which comes with the recordings
    "hand_clapping right_hand_wave left_hand_wave right_arm_clockwise right_arm_counter_clockwise left_arm_clockwise "
    "left_arm_counter_clockwise arm_roll air_drums air_guitar other_gestures"
)
_DIGITS = tuple("0123456789")
_NAMES = {
    "cifar10": cifar10_dvs.CLASSES,
    "cifar10_dvs": cifar10_dvs.CLASSES,
    "cifar100": tuple(_CIFAR100.split()),
    "digit_pairs": tuple(f"{number:02}" for number in range(100)),
    "digits": _DIGITS,
    "dvs128_gesture": tuple(_GESTURES.split()),
    "imagenet": tuple(ResNet18_Weights.DEFAULT.meta["categories"]),
    "mnist": _DIGITS,
    "moving_digits": _DIGITS,
}


def class_names(dataset: str, classes: int) -> tuple[str, ...] | None:
    """Return the names of a data set's classes by label; None where it has none, or another number of classes.

    >>> class_names("cifar10", 10)[:3]
    ('airplane', 'automobile', 'bird')
    """
    names = _NAMES.get(dataset, ())
    return names if len(names) == classes else None
