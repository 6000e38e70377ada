"""Any text on any output, which may fail at any time; any signals in any order."""

import errno
import io
import signal

import hypothesis.strategies as st
from hypothesis import given
from support.fuzzing import examples

from purejaxppo.cli.streams import Output
from purejaxppo.runs.signals import StopRequests

ENCODINGS = ["ascii", "latin-1", "cp1252", "cp037", "shift_jis", "utf-8", "utf-16", "utf-8-sig"]
# every code point, halves of pairs too, as names of files have them
TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)


@examples(50, 5000)
@given(TEXTS, st.sampled_from(ENCODINGS))
def test_any_text_is_printed_in_any_encoding(text, encoding):
    raw = io.BytesIO()
    output = Output(io.TextIOWrapper(raw, encoding=encoding, newline=""))
    print(text, file=output)
    output.flush()
    found = raw.getvalue().decode(encoding)
    assert output.lost is None
    # letters that it has are as they were, in their order, and the line ends
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        assert found.endswith("\n")
        known = [c for c in text if c.isascii()]
        left = iter(found)
        assert all(c in left for c in known)
    else:
        assert found == f"{text}\n"


class Fickle(io.StringIO):
    """A stream that fails in the calls that it is made to fail in, and works after that."""

    def __init__(self, failures):
        super().__init__()
        self.failures = iter(failures)

    def fail(self):
        error = next(self.failures, None)
        if error is not None:
            raise OSError(error, "")

    def write(self, text):
        self.fail()
        return super().write(text)

    def flush(self):
        self.fail()


FAILURES = st.lists(
    st.sampled_from([None, errno.ENOSPC, errno.EPIPE, errno.EIO, errno.EBADF, errno.EAGAIN]),
    max_size=12,
)


@examples(50, 5000)
@given(FAILURES, st.lists(st.sampled_from(["a\n", "b\n", None]), max_size=12))
def test_an_output_that_fails_at_any_time(failures, calls):
    """None stands for a flush. The first error is kept; no call raises; nothing comes twice."""
    stream = Fickle(failures)
    output = Output(stream)
    for text in calls:
        if text is None:
            output.flush()
        else:
            output.write(text)
    met = failures[: len(calls)]
    first = next((error for error in met if error is not None), None)
    assert (output.lost and output.lost.errno) == first
    # a call that failed has written nothing
    padded = [*met, *[None] * len(calls)]
    written = [t for t, error in zip(calls, padded, strict=False) if t and error is None]
    assert stream.getvalue() == "".join(written)


@examples(50, 2000)
@given(st.lists(st.sampled_from([signal.SIGINT, signal.SIGTERM]), max_size=5))
def test_the_first_signal_is_kept_and_the_others_go_where_they_went_before(numbers):
    passed_on = []
    before = {
        number: signal.signal(number, lambda number, frame: passed_on.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    handlers = {number: signal.getsignal(number) for number in before}
    requests = StopRequests()
    try:
        requests.begin()
        for number in numbers:
            signal.raise_signal(number)
        requests.end()
        assert {number: signal.getsignal(number) for number in before} == handlers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert requests.received == numbers[:1]
    assert passed_on == numbers[1:]
