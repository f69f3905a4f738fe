import gc
import logging
import os
import shutil
import tempfile
from pathlib import Path

import forkserver
import psutil
import pytest
import torch
import yaml
from hypothesis import settings
from schedule import Schedule, place_of
from summary import Summary

TESTS = Path(__file__).parent
# Several workers of pytest-xdist share the cores: threads that wait for each other cost more than they bring.
THREADS = 1 if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1 else 2
# for verl, which is imported after this, and for what the tests start
os.environ.setdefault("VERL_PLATFORM", "cpu")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # as recipes/environment.py does
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 leaves a cluster what the tests beside it do not want
# for sitecustomize.py, which what the tests start begins with
FOLDERS = os.environ.get("PYTHONPATH", "").split(os.pathsep)
if str(TESTS) not in FOLDERS:
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(TESTS), *FOLDERS)))
torch.set_num_threads(THREADS)
yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a hundred tests compose verl's configuration
# Derandomised: the same inputs in every run, so that a red run can be repeated. `--hypothesis-profile=deep` tries more.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=60)
settings.register_profile("deep", derandomize=True, deadline=None, max_examples=1000)
settings.load_profile("repeatable")

MEMORY = 3 * 2**30  # bytes that a worker holds with what its tests start
MEMORY_OF_A_CLUSTER = 8 * 2**30  # a training's: the fast tests have one at a time, of the slow ones each worker
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def pytest_configure(config):
    config.pluginmanager.register(Summary())
    if hasattr(config, "workerinput"):
        return
    # once, for all workers and what they start
    os.environ.setdefault("OMP_NUM_THREADS", str(1 if len(getattr(config.option, "tx", ())) > 1 else THREADS))
    if os.environ["VERL_PLATFORM"] == "cpu":
        os.environ[forkserver.FOLDER] = tempfile.mkdtemp(prefix=f"l2t-forks-{os.getpid()}-")


def pytest_xdist_auto_num_workers(config):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory().total
    slow = "slow" in config.option.markexpr.replace("not slow", "")
    fitting = memory // MEMORY_OF_A_CLUSTER if slow else (memory - MEMORY_OF_A_CLUSTER) // MEMORY
    # one more than cores: a third of their time tests wait, for processes that start and for limits that run out
    return max(1, min(cores + 1, int(fitting), 8))


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # what has been imported stays: the collector need not look through it again and again


def pytest_unconfigure(config):
    gc.unfreeze()  # else what is left at the end is taken for leaks, and named
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(forkserver.FOLDER, ""), ignore_errors=True)  # which ends the servers


def pytest_xdist_make_scheduler(config, log):
    return Schedule(config, log)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: place_of(item.nodeid))


@pytest.fixture(autouse=True)
def warnings_are_logged():
    """verl's vLLM server silences its whole process when it is imported, which here is everybody's: root and handlers."""
    logging.root.setLevel(logging.WARNING)
    for handler in logging.root.handlers:
        handler.setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def browser():
    # as long as it lives, playwright's event loop runs in this thread, and `asyncio.run` refuses: a module, no longer
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser ({', '.join(BROWSERS)}) is installed; Debian, Ubuntu: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens a page from disk; whatever it says on the console or asks for is a failure when the test ends."""
    said, asked, files = [], [], []

    def open_file(file, **options):
        files.append(file.as_uri())
        tab = browser.new_page(**options)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(file.as_uri())
        return tab

    yield open_file
    for context in browser.contexts:
        context.close()
    assert said == []
    assert set(asked) <= set(files)
