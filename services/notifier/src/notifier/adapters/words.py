"""One language's way of writing amounts, days, spans of time and set phrases, for one city.

Set phrases (why something was declined, how a payment method is called) are files as the
templates are: `templates/<locale>/phrases.toml`. A reason that they do not know yet has a phrase
all the same, `other`, that is true of every reason.
"""

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from importlib.resources import files
from typing import Any, get_args
from zoneinfo import ZoneInfo

from babel import Locale as BabelLocale
from babel.dates import format_date, format_time, format_timedelta
from babel.numbers import format_currency, get_currency_precision, get_territory_currencies

from shared.contracts.portal import Locale

LOCALES: tuple[Locale, ...] = get_args(Locale)


@dataclass(frozen=True, kw_only=True)
class Sender:
    """Who writes: the city, as its customers know it."""

    address: str
    name: str
    city: str
    territory: str
    """ISO 3166 code: decides how a language writes amounts and dates, such as `es` in `US`."""
    time_zone: ZoneInfo
    portal_url: str
    support_phone: str

    @property
    def domain(self) -> str:
        return self.address.rpartition("@")[2]


class Words:
    """Writes values as the customers of one city read them in one language."""

    def __init__(self, *, locale: Locale, sender: Sender) -> None:
        self._babel = BabelLocale(locale, territory=sender.territory)
        self._time_zone = sender.time_zone
        self._amounts: dict[str, Callable[[int], str]] = {}
        self._phrases = phrases(locale=locale)
        self._currency = next(iter(get_territory_currencies(sender.territory)), "USD")
        # Of these few differ from one mail to the next of the same minute.
        self.date = lru_cache(maxsize=512)(self._format_date)
        self._minute = lru_cache(maxsize=2048)(self._format_minute)
        self.span = lru_cache(maxsize=512)(self._format_span)

    def amount(self, cents: int, currency: str | None) -> str:
        """Write an amount of minor units; of the city's own currency where none is named."""
        currency = currency or self._currency
        write = self._amounts.get(currency)
        if write is None:
            write = self._amounts[currency] = amount_writer(self._babel, currency)
        return write(cents)

    def minute(self, instant: datetime) -> str:
        """Write day and time of day in the city's zone."""
        return self._minute(instant.replace(second=0, microsecond=0))

    def day(self, instant: datetime) -> date:
        """Return the city's day at an instant."""
        return instant.astimezone(self._time_zone).date()

    def phrase(self, table: str, *keys: str | None, **values: object) -> str:
        """Return the phrase of the first key that the table knows, else what is true of any."""
        known = self._phrases[table]
        for key in keys:
            if key is not None and key in known:
                return known[key].format(**values)
        return known["other"].format(**values)

    def _format_date(self, day: date) -> str:
        return str(format_date(day, "long", locale=self._babel))

    def _format_minute(self, instant: datetime) -> str:
        local = instant.astimezone(self._time_zone)
        time = format_time(local, "short", locale=self._babel)
        return f"{self.date(local.date())}, {time}"

    def _format_span(self, seconds: int) -> str:
        if seconds < 1:
            return self.phrase("span", "under_a_second")
        span = timedelta(seconds=seconds)
        return str(format_timedelta(span, threshold=1.5, locale=self._babel))


@lru_cache
def phrases(*, locale: Locale) -> Mapping[str, Mapping[str, str]]:
    """Return the set phrases of a language, table by table."""
    source = files("notifier").joinpath("templates", locale, "phrases.toml")
    tables: dict[str, Any] = tomllib.loads(source.read_text(encoding="utf-8"))
    return tables


def one_line(value: str) -> str:
    """Return a value without line ends and other control characters: it stays one value."""
    if value.isprintable():
        return value
    return " ".join("".join(c if c.isprintable() else " " for c in value).split())


def amount_writer(locale: BabelLocale, currency: str) -> Callable[[int], str]:
    """Return what writes an amount of minor units as the locale does.

    Babel takes 13 µs an amount. What it would write is learnt from one amount and tried on
    several; where a locale writes amounts in another way, Babel itself is returned.
    """
    precision = get_currency_precision(currency)

    def by_babel(cents: int) -> str:
        return str(format_currency(Decimal(cents).scaleb(-precision), currency, locale=locale))

    minor = "987"[:precision]
    pattern = rf"(\D*)1(?P<group>\D*)234(?P=group)567(\D*){minor}(\D*)"
    learnt = re.fullmatch(pattern, by_babel(int(f"1234567{minor}")))
    if learnt is None:
        return by_babel
    before, group, point, after = learnt.groups()

    def by_hand(cents: int) -> str:
        whole, rest = divmod(cents, 10**precision)
        minor = f"{point}{rest:0{precision}d}" if precision else point
        grouped = f"{whole:,}".replace(",", group)
        return f"{before}{grouped}{minor}{after}"

    tried = (0, 1, 99, 100, 99_999, 123_456, 1_234_567, 100_000_000)
    return by_hand if all(by_hand(each) == by_babel(each) for each in tried) else by_babel
