"""What schemathesis can't know of this service from its document."""

import json
from datetime import datetime, timedelta, timezone

import schemathesis
from hypothesis import strategies as st

# A time is only acceptable within the retention and not in the future; well within both, for as long as
# a run takes.
NEWEST = datetime.now(timezone.utc).replace(tzinfo=None) - timedelta(minutes=5)
OLDEST = NEWEST - timedelta(days=300)

times = st.datetimes(OLDEST, NEWEST, timezones=st.just(timezone.utc))
schemathesis.openapi.format("date-time", times.map(datetime.isoformat))
schemathesis.openapi.format("date", times.map(lambda at: at.date().isoformat()))


@schemathesis.serializer("application/x-ndjson")
def lines(ctx, value):
    """The document describes one line; a body has several."""
    line = json.dumps(value).encode()
    return line + b"\n" + line + b"\n\n"


@schemathesis.check
def receipts_add_up(ctx, response, case):
    """Of a batch, whatever was in it."""
    if response.status_code not in (200, 202) or response.request.method != "POST":
        return
    receipt = response.json()
    if "accepted" not in receipt:
        return
    assert receipt["accepted"] == receipt["stored"] + receipt["spooled"], receipt
    assert len(receipt["rejected"]) == min(receipt["rejected_count"], 100), receipt
    assert (response.status_code == 202) == (receipt["spooled"] > 0), receipt
    lines = [rejected["line"] for rejected in receipt["rejected"]]
    assert lines == sorted(set(lines)), receipt
    assert all(rejected["errors"] for rejected in receipt["rejected"]), receipt
