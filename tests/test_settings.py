import logging

import pytest
from pydantic import ValidationError

from lungline.errors import SettingsError
from lungline.settings import RENAMED, Settings, load_settings, setting_names, variable


def test_every_setting_has_a_default_and_a_description() -> None:
    names = list(setting_names())
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


def test_an_override_wins_and_leaves_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """An override replaces one variable of a block and not the others."""
    monkeypatch.setenv("LUNGLINE_TRAIN__EPOCHS", "3")
    monkeypatch.setenv("LUNGLINE_TRAIN__SEED", "11")
    settings = load_settings({"train.epochs": 5})
    assert (settings.train.epochs, settings.train.seed) == (5, 11)


def test_an_unknown_variable_is_refused_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGLINE_TRAIN__EPOCH", "3")
    with pytest.raises(SettingsError, match=r"LUNGLINE_TRAIN__EPOCH\. Did you mean LUNGLINE_TRAIN__EPOCHS\?"):
        load_settings()


def test_an_unknown_override_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SettingsError, match=r"modle\.width\. Did you mean model\.width\?"):
        load_settings({"modle.width": 8})


def test_a_value_out_of_range_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"train\.epochs: .*greater than or equal to 1"):
        load_settings({"train.epochs": 0})


def test_a_refused_secret_stays_out_of_the_message() -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({"s3_secret_key": ["tops3cret"]})
    assert "tops3cret" not in str(refused.value)


def test_secrets_stay_out_of_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGLINE_S3_SECRET_KEY", "tops3cret")
    assert "tops3cret" not in repr(load_settings())


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().data = "phantom"  # pyright: ignore[reportAttributeAccessIssue]  # that it is refused is the point


def test_the_variable_of_a_nested_name_has_two_underscores() -> None:
    assert variable("train.epochs") == "LUNGLINE_TRAIN__EPOCHS"


def _value(settings: Settings, name: str) -> object:
    block, _, leaf = name.rpartition(".")
    return getattr(getattr(settings, block) if block else settings, leaf)


VALUES = {"model.start": "random", "monitor.days": 3, "monitor.minutes": 12}


@pytest.mark.parametrize("old", RENAMED)
def test_a_renamed_setting_works_with_a_warning(
    old: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The old name sets the new one, as a variable and as an override; the warning says the new name."""
    new, value = RENAMED[old], VALUES.get(old, 0.5)
    assert old not in setting_names()
    with caplog.at_level(logging.WARNING):
        assert _value(load_settings({old: value}), new) == value
    assert f"The setting {old} is now {new};" in caplog.text
    monkeypatch.setenv(variable(old), str(value))
    with caplog.at_level(logging.WARNING):
        assert _value(load_settings(), new) == value
    assert f"The setting {variable(old)} is now {variable(new)};" in caplog.text
    assert _value(Settings(), new) == value


def test_the_new_name_wins_over_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGLINE_TRAIN__AVERAGE", "0.5")
    monkeypatch.setenv("LUNGLINE_TRAIN__EMA_DECAY", "0.25")
    assert load_settings().train.ema_decay == 0.25
    assert load_settings({"train.average": 0.75}).train.ema_decay == 0.75
    assert load_settings({"train.average": 0.75, "train.ema_decay": 0.125}).train.ema_decay == 0.125
