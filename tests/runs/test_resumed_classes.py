import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.runs.directory import write_config
from maskgit_jax.runs.fit import check_resumed_classes
from tests.example import tiny_config

CHANGES = [
    (("ant", "cat", "dog"), "new: ant"),
    (("cat",), "missing: dog"),
    (("dog", "zebra"), "missing: cat; new: zebra"),
    (("dog", "cat"), "in another order"),
    (tuple("0123456789"), "missing: cat, dog; new: 0, 1, 2, 3, 4, ..."),
    (("cat", "dog"), ""),
]


@pytest.mark.parametrize("stage", ["maskgit", "gpt", "pixelsnail", "token_critic", "vqgan", "vae"])
@pytest.mark.parametrize(("names", "difference"), CHANGES)
def test_a_changed_class_list_is_refused(tmp_path, stage, names, difference):
    def config(class_names):
        count = len(class_names)
        return tiny_config(stage, data__class_names=class_names, data__num_classes=count)

    write_config(tmp_path, config(("cat", "dog")))
    check_resumed_classes(config(names), tmp_path)  # nothing has been trained
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    if stage in ("vqgan", "vae") or not difference:
        check_resumed_classes(config(names), tmp_path)
        return
    message = rf"was trained on the classes cat, dog, but .*\({difference}\); restore the classes"
    with pytest.raises(InputError, match=message):
        check_resumed_classes(config(names), tmp_path)


def test_equal_names_in_another_unicode_form_are_one_class(tmp_path):
    names = ("cafe\u0301", "cat")
    write_config(tmp_path, tiny_config("gpt", data__class_names=names, data__num_classes=2))
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    composed = tiny_config("gpt", data__class_names=("caf\u00e9", "cat"), data__num_classes=2)
    check_resumed_classes(composed, tmp_path)
