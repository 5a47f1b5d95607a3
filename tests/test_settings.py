import pytest
from pydantic import ValidationError

from lungline.errors import SettingsError
from lungline.settings import Settings, known_names, load_settings, variable


def test_every_setting_has_a_default_and_one_sentence() -> None:
    names = list(known_names())
    assert "home" in names
    assert "train.epochs" in names
    for name in names:
        block, _, leaf = name.rpartition(".")
        fields = type(getattr(Settings(), block)).model_fields if block else Settings.model_fields
        field = fields[leaf]
        assert not field.is_required(), name
        assert field.description, name
        assert field.description.endswith("."), name


def test_the_environment_sets_plain_and_nested_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGLINE_DATA", "phantom:40")
    monkeypatch.setenv("LUNGLINE_TRAIN__EPOCHS", "3")
    settings = load_settings()
    assert settings.data == "phantom:40"
    assert settings.train.epochs == 3


def test_an_override_wins_over_the_environment_and_leaves_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGLINE_TRAIN__EPOCHS", "3")
    monkeypatch.setenv("LUNGLINE_TRAIN__SEED", "11")
    settings = load_settings({"train.epochs": 5})
    assert (settings.train.epochs, settings.train.seed) == (5, 11)


def test_an_unknown_variable_is_refused_with_the_nearest_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGLINE_TRAIN__EPOCH", "3")
    with pytest.raises(SettingsError, match=r"LUNGLINE_TRAIN__EPOCH\. Did you mean LUNGLINE_TRAIN__EPOCHS\?"):
        load_settings()


def test_an_unknown_override_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(SettingsError, match=r"modle\.width\. Did you mean model\.width\?"):
        load_settings({"modle.width": 8})


def test_a_value_out_of_range_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"train\.epochs: .*greater than or equal to 1"):
        load_settings({"train.epochs": 0})


def test_a_refused_secret_does_not_stand_in_the_message() -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({"s3_secret_key": ["tops3cret"]})
    assert "tops3cret" not in str(refused.value)


def test_secrets_do_not_show_in_print(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGLINE_S3_SECRET_KEY", "tops3cret")
    assert "tops3cret" not in repr(load_settings())


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().data = "phantom"  # pyright: ignore[reportAttributeAccessIssue]  # that it is refused is the point


def test_the_variable_of_a_nested_name_has_two_underscores() -> None:
    assert variable("train.epochs") == "LUNGLINE_TRAIN__EPOCHS"
