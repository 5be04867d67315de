"""Dates: each form that means one day is read as it, and a column decides what two numbers mean."""

import numpy as np
import pytest

from exreid.data.dates import parse_date, read_dates


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("14.03.2016", "2016-03-14T00:00:00"),
        ("1.3.2016", "2016-03-01T00:00:00"),
        ("14/03/2016", "2016-03-14T00:00:00"),
        ("14-03-2016", "2016-03-14T00:00:00"),
        ("14.03.2016 06:30", "2016-03-14T06:30:00"),
        ("14.03.2016 6:30 PM", "2016-03-14T18:30:00"),
        ("14.03.2016 12:05 am", "2016-03-14T00:05:00"),
        ("2016-03-14", "2016-03-14T00:00:00"),
        ("2016-3-4", "2016-03-04T00:00:00"),
        ("2016/03/14 06:30", "2016-03-14T06:30:00"),
        ("2016.03.14", "2016-03-14T00:00:00"),
        ("2016:03:14 22:00:00", "2016-03-14T22:00:00"),
        ("20160314", "2016-03-14T00:00:00"),
        ("20160314_220005", "2016-03-14T22:00:05"),
        ("20160314220005", "2016-03-14T22:00:05"),
        ("14-Mar-2016", "2016-03-14T00:00:00"),
        ("14 March 2016 06:30:05", "2016-03-14T06:30:05"),
        ("Mar 14, 2016", "2016-03-14T00:00:00"),
        ("14th Sept. 2016", "2016-09-14T00:00:00"),
        ("Mon, 14 Mar 2016 06:30:05 GMT", "2016-03-14T06:30:05"),
        ("2016-Mar-14", "2016-03-14T00:00:00"),
        (" 2016-03-14T06:30:05 ", "2016-03-14T06:30:05"),
        ("2016-03-14T06:30:05Z", "2016-03-14T06:30:05"),
        ("2016-03-14 06:30:05.250000", "2016-03-14T06:30:05"),
        ("2016-03-14T06:30:05+02:00", "2016-03-14T04:30:05"),
        ("2016-03-14 06:30:05 +0200", "2016-03-14T04:30:05"),
    ],
)
def test_every_form_of_one_day_is_read(text, moment):
    assert parse_date(text) == np.datetime64(moment)


@pytest.mark.parametrize(
    "text",
    [
        *("03/14/2016", "2016", "2016-13-01", "14.03.16", "14.03/2016", "today", "", "1.Xyz.2016"),
        *("10-Mar-16", "2016-03-14 25:00", "2016-03-14 13:00 PM", "42443", "1680000001", "x 2016"),
        *("2016-03-14 06:30 CET", "30 Feb 2016", "0000:00:00 00:00:00", "2016:03:14 24:04:20"),
    ],
)
def test_what_is_no_date_or_more_than_one_is_refused(text):
    with pytest.raises(ValueError, match=r"date|month|day|hour|\d"):
        parse_date(text)


def _days(values):
    dates = read_dates(values)
    return [str(day)[:10] for day in dates.moment_N], dates.unread, " ".join(dates.notes)


def test_one_date_that_can_only_be_month_first_turns_its_column():
    days, unread, notes = _days(["01/02/2016", None, "03/14/2016", "05.06.2016"])
    assert days == ["2016-01-02", "NaT", "2016-03-14", "2016-06-05"]
    assert unread == []
    assert "month comes first" in notes
    assert "'03/14/2016'" in notes


def test_a_column_that_says_both_is_day_first_and_the_others_are_unread():
    days, unread, _ = _days(["01/02/2016", "14/03/2016", "03/14/2016"])
    assert days == ["2016-02-01", "2016-03-14", "NaT"]
    assert unread == [2]


def test_a_column_that_could_be_either_is_said():
    days, _, notes = _days(["01/02/2016", "03/04/2016", "05/05/2016"])
    assert days[0] == "2016-02-01"
    assert "read day first: 2 dates such as '01/02/2016'" in notes
    assert _days(["01/02/2016", "14/03/2016"])[2] == ""
    assert _days(["01.02.2016", "05/05/2016"])[2] == ""


def test_zeros_are_no_date_and_what_cannot_be_read_is_counted():
    days, unread, notes = _days(["0000:00:00 00:00:00", "00/00/0000", "never", "2016-03-14"])
    assert days == ["NaT", "NaT", "NaT", "2016-03-14"]
    assert unread == [2]
    assert notes == "without a date: 2 cells such as '0000:00:00 00:00:00'"
