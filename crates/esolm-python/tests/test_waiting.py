"""What happens while the model computes: other threads, Ctrl-C, processes."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import esolm
import pytest
from conftest import ROOT

STORIES = ROOT / "models" / "stories"
# Long enough that nobody waits for its end.
LONG = {"length": 256, "batch": 16, "alpha_0": 0, "seed": 1}
# Each pass takes its time.
SLOW = {"length": 256, "batch": 16, "decode_as": "mdlm", "seed": 1}


def interrupt_soon(call, under_way=None):
    """Calls, and sends the main thread Ctrl-C while it waits: soon, or when the call sets `under_way`."""
    began = threading.Event()

    def send():
        began.wait()
        if under_way is None:
            time.sleep(0.3)
        else:
            under_way.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            began.set()
            call()
    finally:
        # A call that ended early is told by its own error, not by the Ctrl-C that came too late.
        with contextlib.suppress(KeyboardInterrupt):
            thread.join()


def endless(model):
    while True:
        model.texts(**LONG)


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to a whole console")
def test_ctrl_c_ends_every_call(model):
    words = "Once upon a time there was a little girl. " * 20
    for call in [
        lambda: endless(model),
        lambda: model.score([words] * 5000),
        lambda: model.perplexity(words * 3000),
        lambda: model.logits([[1] * 256] * 2000),
    ]:
        interrupt_soon(call)
        assert model.text(seed=4, length=8) == model.text(seed=4, length=8)


@pytest.mark.skipif(os.name == "nt", reason="there are no named pipes in folders here")
def test_ctrl_c_ends_the_wait_for_files(tmp_path):
    # A pipe that nobody writes to keeps its reader waiting, as a slow download does.
    pipe = tmp_path / "tokenizer.json"
    os.mkfifo(pipe)
    try:
        interrupt_soon(lambda: esolm.inspect(tokenizer=pipe))
        interrupt_soon(lambda: esolm.Model.load(device="cpu", tokenizer=pipe))
    finally:
        # Lets the threads end that still read it.
        os.close(os.open(pipe, os.O_RDWR))


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to a whole console")
def test_a_download_that_ctrl_c_left_behind_is_waited_for(tmp_path, monkeypatch):
    may_answer = threading.Event()

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            path = STORIES / self.path.rpartition("/")[2]
            if not path.is_file():
                self.send_error(404)
                return
            body = path.read_bytes()
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            part = body[int(first) : int(last) + 1 if last else None]
            if last != "0":
                may_answer.wait()
            self.send_response(206)
            self.send_header("Content-Length", len(part))
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(body)}")
            self.send_header("ETag", f'"{path.name}"')
            self.send_header("X-Repo-Commit", "0123456789abcdef")
            self.end_headers()
            self.wfile.write(part)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        threading.Thread(target=hub.serve_forever).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        try:
            interrupt_soon(lambda: esolm.inspect("hf:owner/stories"))
            # Longer than the library tries to download a file that another one downloads.
            threading.Timer(7, may_answer.set).start()
            assert esolm.inspect("hf:owner/stories")["family"] == "esolm"
        finally:
            may_answer.set()
            hub.shutdown()


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to a whole console")
def test_ctrl_c_keeps_what_a_generation_wrote(model):
    run = model.generate(**{**LONG, "batch": 64})
    begun = threading.Event()

    def reads():
        for _ in run:
            begun.set()

    interrupt_soon(reads, begun)
    result = run.result
    assert result["interrupted"] and len(result["text"]) == 64
    # The model is free, although the run is still held.
    assert model.text(seed=4, length=8)


def longest_pause(call):
    """How long a call takes, and how long of that no other thread runs; seconds."""
    times, done = [], threading.Event()

    def ticks():
        while not done.is_set():
            times.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=ticks)
    thread.start()
    while not times:
        time.sleep(0.001)
    began = time.perf_counter()
    call()
    took = time.perf_counter() - began
    done.set()
    thread.join()
    times.append(time.perf_counter())
    return took, max(after - before for before, after in zip(times, times[1:]))


def check_others_run(prepare):
    """Whether other threads run during the call that `prepare` returns. A busy machine may stop them, too, but not each time."""
    for _ in range(5):
        took, pause = longest_pause(prepare())
        if pause < max(took / 2, 0.05):
            return
    raise AssertionError((took, pause))


def test_other_threads_run_meanwhile(model):
    check_others_run(lambda: lambda: model.text(seed=1, length=256))
    words = "Once upon a time there was a little girl. " * 20000
    check_others_run(lambda: lambda: model.encode(words))


@pytest.mark.parametrize("last", ["close", "generation", "model"])
def test_other_threads_run_while_a_model_ends(last):
    def prepare():
        model = esolm.Model.load(device="cpu")
        run = model.generate(**SLOW)
        next(run)
        if last == "close":
            return run.close
        held = [run]
        if last == "model":
            run.close()
            held = [model]
        # Whatever lets the model go last waits for the pass under way.
        return held.clear

    check_others_run(prepare)


def test_a_run_that_is_closed_while_another_thread_reads_it_is_over():
    # A model of its own, so that other tests do not wait for it where this fails.
    model = esolm.Model.load(device="cpu")
    run = model.generate(**SLOW)
    began, texts = threading.Event(), []

    def reads():
        next(run)
        began.set()
        next(run)

    reader = threading.Thread(target=reads, daemon=True)
    reader.start()
    began.wait()
    # It waits for the next step now.
    time.sleep(0.05)
    run.close()
    reader.join()
    caller = threading.Thread(target=lambda: texts.append(model.text(seed=4, length=8)), daemon=True)
    caller.start()
    caller.join(60)
    assert texts
    assert list(run) == []
    with pytest.raises(esolm.EsolmError, match="closed before its end"):
        run.result


def test_threads_share_a_model(model):
    def write(seed):
        return model.text(seed=seed, length=24), [len(step["revealed"]) for step in model.generate(seed=seed, length=24)]

    alone = [write(seed) for seed in range(6)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(write, range(6))) == alone


def test_a_run_is_read_by_one_thread_at_a_time(model):
    run = model.generate(**{**LONG, "batch": 64})
    problems = []

    def reads():
        try:
            for _ in run:
                pass
        except esolm.EsolmError as error:
            problems.append(error.code)
            run.stop()

    threads = [threading.Thread(target=reads) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == ["busy"]
    assert run.result["interrupted"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_is_told_to_load_its_own(model, talker):
    begun = model.generate(seed=1, length=32)
    unbegun = model.generate(seed=1, length=8)
    next(begun)
    said = [{"role": "user", "content": "What colour is the sky?"}]
    answering = talker.chat(said)
    next(answering)
    calls = [
        lambda: model.text(length=8),
        lambda: next(begun),
        lambda: begun.result,
        lambda: unbegun.headers,
        lambda: next(answering),
        lambda: answering.answer,
    ]

    def child(told):
        for call in calls:
            try:
                call()
            except esolm.EsolmError as error:
                told.put((error.code, str(error)))

    context = multiprocessing.get_context("fork")
    told = context.Queue()
    process = context.Process(target=child, args=(told,), daemon=True)
    process.start()
    for _ in calls:
        code, message = told.get(timeout=60)
        assert code == "busy" and "load it in this process" in message
    process.join()
    # Here they go on.
    assert begun.result["finish"] == ["length"] and answering.answer["text"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_may_drop_the_model():
    program = """
        import os, sys, warnings
        import esolm
        warnings.simplefilter("ignore")
        model = esolm.Model.load(device="cpu")
        child = os.fork()
        del model
        if child == 0:
            sys.exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "7", "")


def test_a_program_may_end_at_any_time():
    program = """
        import esolm
        model = esolm.Model.load(device="cpu")
        run = model.generate(seed=1, length=128)
        next(run)
        print(model.info["family"])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "esolm", "")
