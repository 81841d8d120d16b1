"""Ray: a race's runs on a cluster of two nodes are those of home, and a lost one is made again on the other node."""

import os
import signal
import threading
import time
from functools import partial

import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

os.environ.setdefault("RAY_worker_niceness", "0")  # on a busy machine its workers would wait for all others
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.cluster_utils import Cluster

import findlr.ray
from findlr import ConfigurationError, find_lr
from tests.at_home import HOME_ALONE

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray's own sockets and logs
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.timeout(600),
]

HOW = dict(total_steps=300, schedule="one_cycle", verify=True, budget=260, num_steps=40, progress=False)
HOME = os.getpid()
NODES = {"first": {"num_cpus": 1, "resources": {"first": 1}}, "second": {"num_cpus": 1, "resources": {"second": 1}}}


@pytest.fixture(scope="module")
def cluster():
    head = {"num_cpus": 0, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.named = {name: made.add_node(**how) for name, how in NODES.items()}
    try:
        ray.init(address=made.address, log_to_driver=False)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def training(does=lambda: None):
    """A training whose loss does something in another process, first of all."""
    torch.manual_seed(0)
    inputs = torch.randn(400, 8)
    loader = DataLoader(TensorDataset(inputs, inputs.sum(dim=1, keepdim=True)), 20, shuffle=True)
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1))
    home = HOME

    def loss_fn(model, batch):
        if os.getpid() != home:
            does()
        return (model(batch[0]) - batch[1]).square().mean()

    return dict(model=net, optimizer=optim.AdamW(net.parameters()), loss_fn=loss_fn, loader=loader)


def states(given):
    return [*(t.clone() for t in given["model"].state_dict().values()), torch.get_rng_state()]


@pytest.fixture(scope="module")
def alone():
    return find_lr(**training(), **HOW, executor=HOME_ALONE)


def test_the_runs_are_the_same_to_the_bit_and_the_training_is_sent_once(cluster, alone):
    class Counted(findlr.ray.RayExecutor):
        shared = 0

        def share(self, parcel):
            self.shared += 1
            return super().share(parcel)

    executor = findlr.ray.executor()
    executor.__class__ = Counted
    given = training()
    before = states(given)
    finding = find_lr(**given, **HOW, executor=executor)
    assert finding.race.path == "parallel"
    assert finding.race.runs == alone.race.runs
    assert (finding.suggestion, finding.cost) == (alone.suggestion, alone.cost)
    assert all(map(torch.equal, states(given), before))
    assert executor.shared == 1


def note_node(path):
    with path.open("a") as file:
        file.write(ray.get_runtime_context().get_node_id() + "\n")


def test_the_runs_take_the_resources_that_were_asked_for(cluster, tmp_path):
    path = tmp_path / "nodes"
    executor = findlr.ray.executor(resources={"second": 1})
    find_lr(**training(partial(note_node, path)), **HOW, executor=executor)
    assert set(path.read_text().split()) == {cluster.named["second"].node_id}


def test_a_run_whose_worker_is_killed_is_made_again(cluster, alone, tmp_path):
    path = tmp_path / "killed"

    def kill():
        if not path.exists():
            path.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    finding = find_lr(**training(kill), **HOW, executor=findlr.ray.executor())
    assert path.exists()
    assert finding.race.runs == alone.race.runs


def test_a_run_that_cannot_be_made_again_is_made_at_home(cluster, alone, caplog):
    given = training(lambda: os.kill(os.getpid(), signal.SIGKILL))
    finding = find_lr(**given, **HOW, executor=findlr.ray.executor(max_retries=0))
    assert finding.race.path == "parallel"
    assert finding.race.runs == alone.race.runs
    assert "made here" in caplog.text


def test_ctrl_c_stops_what_runs_and_cancels_what_waits(cluster, tmp_path):
    path = tmp_path / "began"

    def wait():
        path.touch()
        time.sleep(0.5)

    def press():
        while not path.exists():
            time.sleep(0.05)
        os.kill(HOME, signal.SIGINT)

    given = training(wait)
    before = states(given)
    executor = findlr.ray.executor()
    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt) as pressed:
        find_lr(**given, **HOW, executor=executor)
    assert len(pressed.value.finding.curve) > 0
    assert all(map(torch.equal, states(given), before))
    for _ in range(100):  # a run would take 40 seconds
        if ray.available_resources().get("CPU") == len(NODES):
            return
        time.sleep(0.1)
    pytest.fail("the runs go on")


@pytest.mark.parametrize(
    ("options", "words"),
    [({"num_cpu": 1}, "num_cpu"), ({"num_cpus": -1}, "num_cpus"), ({"num_returns": 2}, "leave it")],
)
def test_an_option_that_cannot_be_is_refused(cluster, options, words):
    with pytest.raises(ConfigurationError, match=words):
        findlr.ray.executor(**options)


def test_an_executor_that_is_shut_down_takes_no_task(cluster):
    with findlr.ray.executor() as executor:
        assert executor.submit(os.getpid).result() != HOME
    with pytest.raises(ConfigurationError, match="shut down"):
        find_lr(**training(), **HOW, executor=executor)


def test_the_runs_of_a_lost_node_are_made_again_on_the_other(cluster, alone, tmp_path):
    path, lost = tmp_path / "node", []

    def wait():
        if not path.exists():
            note_node(path)
            time.sleep(60)

    def lose():
        while not path.exists() or not path.read_text().endswith("\n"):
            time.sleep(0.05)
        (node,) = [node for node in cluster.named.values() if node.node_id == path.read_text().strip()]
        cluster.remove_node(node, allow_graceful=False)
        lost.append(node.node_id)

    thread = threading.Thread(target=lose)
    thread.start()
    finding = find_lr(**training(wait), **HOW, executor=findlr.ray.executor())
    thread.join()
    assert finding.race.runs == alone.race.runs
    assert lost == path.read_text().split()


def test_without_a_cluster_it_says_what_to_call():
    ray.shutdown()
    with pytest.raises(ConfigurationError, match=r"call ray.init\(\) first"):
        findlr.ray.executor()
