from sdx_hub.ending import Ending


def test_who_asked_is_told_once_and_who_asks_later_at_once() -> None:
    ending, told = Ending(), []
    ending.on(lambda: told.append("early"))
    assert not ending.begun
    assert told == []
    ending.begin()
    ending.begin()
    assert ending.begun
    ending.on(lambda: told.append("late"))
    assert told == ["early", "late"]
