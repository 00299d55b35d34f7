"""SIGKILL with real backends: W&B offline and on a server, MLflow with a file and on a server."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from support.chaos.backends import Backend, Mlflow, WandbOffline, WandbOnline
from support.chaos.fault_points import OF_DELIVERY, OF_TRAINER, at
from support.chaos.figures import Figures
from support.chaos.lifetime import Life, live
from support.chaos.run import ChaosRun

pytest.importorskip("wandb")
pytest.importorskip("mlflow")

from support.mlflow_kit import IGNORE_NOLOAD, shared_server, shared_template
from support.wandb_server import KEY, WandbServer

pytestmark = [
    IGNORE_NOLOAD,
    pytest.mark.chaos,
    # The W&B client in this process only reads files.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
POINTS = 1500


def choose_life(chance: random.Random, targets: tuple[str, ...]) -> Life:
    """Choose the processes to kill and the time; mostly after the sinks have started to deliver, seconds later."""
    kind = chance.choice(["point", "delivery point", "random", "random", "random"])
    if kind == "point":
        return Life([at("trainer", OF_TRAINER, chance)], wait=True)
    if kind == "delivery point":
        points = [point for point in OF_DELIVERY if point[0] != "backend"]
        return Life([at("delivery", points, chance, do=chance.choice(("kill", "job")))])
    return Life(wait=chance.random() < 0.8, after=chance.uniform(0, 2.0), target=chance.choice(targets))


def campaign(
    chaos_run: Callable[..., ChaosRun], make: Callable[[], Backend], kills: int, *, core: bool = False
) -> Figures:
    """Repeat runs with one sink until the number of kills is reached."""
    total = Figures()
    chance = random.Random(3)
    targets = ("trainer", "delivery", "job", *(["core"] * 3 if core else ()))
    while sum(total.kills.values()) < kills:
        run = chaos_run(make(), seed=chance.randrange(1 << 30), back=chance.choice((0, 50)), pause=0.004)
        for _ in range(10):
            live(run, choose_life(chance, targets), points=POINTS)
        total.add(run.finish())
        run.check()
    return total


@pytest.fixture
def few(count: int) -> int:
    """The number of kills with these backends, which take seconds each."""
    return max(5, count // 20)


def test_kills_with_wandb_offline(
    chaos_run: Callable[..., ChaosRun], figures: Callable[[object], None], few: int
) -> None:
    figures(campaign(chaos_run, WandbOffline, few, core=True))


def test_kills_with_wandb_on_a_server(
    chaos_run: Callable[..., ChaosRun], figures: Callable[[object], None], few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        figures(campaign(chaos_run, lambda: WandbOnline(server), few, core=True))


def test_kills_with_mlflow_with_a_file(
    chaos_run: Callable[..., ChaosRun], figures: Callable[[object], None], few: int, request: pytest.FixtureRequest
) -> None:
    template = shared_template(request.config)
    figures(campaign(chaos_run, lambda: Mlflow(template=template), few))


def test_kills_with_mlflow_on_a_server(
    chaos_run: Callable[..., ChaosRun], figures: Callable[[object], None], few: int, request: pytest.FixtureRequest
) -> None:
    address = shared_server(request.config)
    figures(campaign(chaos_run, lambda: Mlflow(address=address), few))
