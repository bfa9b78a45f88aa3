"""Hosts and workers fail: killed, stopped, cut off, taken away, gone and back. The run ends as if nothing had been.

Each host is a network namespace of its own, so that what is cut really is cut.
"""

from __future__ import annotations

import os
import signal
import time

from tests.drills.drill import MOST_STEPS, Drills, num_redone, seconds_to_recover
from tests.drills.ray_hosts import host_of_rank_0, training_workers

DEADLINE_S = 15
ELASTIC = ("--num-workers=1:2", "--workers.resize-every-s=5")


def test_a_worker_is_killed(drills: Drills) -> None:
    with drills.run("killed-worker") as run:
        run.wait_for_checkpoint()
        fault_at = time.time()
        (pid,) = training_workers(host_of_rank_0(drills.cluster.nodes))
        os.kill(pid, signal.SIGKILL)
        seconds = seconds_to_recover(run, fault_at)
        drills.judge(
            "SIGKILL of a worker, the one that writes checkpoints", run, recovery_s=seconds, redone=num_redone(run)
        )
    assert "worker death of worker 0 " in run.log()


def test_a_worker_hangs(drills: Drills) -> None:
    with drills.run("hung-worker", "--workers.collective-timeout-s=15") as run:
        run.wait_for_checkpoint()
        fault_at = time.time()
        (victim,) = (host for host in drills.cluster.nodes if host != host_of_rank_0(drills.cluster.nodes))
        (pid,) = training_workers(victim)
        os.kill(pid, signal.SIGSTOP)
        seconds = seconds_to_recover(run, fault_at)
        drills.judge("SIGSTOP of a worker, found after 15 s", run, recovery_s=seconds, redone=num_redone(run))
    (failed,) = run.events("failed")
    assert failed["detail"].startswith("hang of worker 1 at step "), failed
    assert "its last sign of life is " in failed["detail"]


def test_a_host_loses_power(drills: Drills) -> None:
    with drills.run("power") as run:
        run.wait_for_checkpoint()
        victim, fault_at = host_of_rank_0(drills.cluster.nodes), time.time()
        victim.lose_power()
        time.sleep(5)
        drills.cluster.start_node(victim)
        seconds = seconds_to_recover(run, fault_at)
        drills.judge("a host loses power, and is up again 5 s later", run, recovery_s=seconds, redone=num_redone(run))


def test_a_host_goes_and_comes_back(drills: Drills) -> None:
    victim = drills.cluster.nodes[-1]
    with drills.run("resized", *ELASTIC, steps=MOST_STEPS) as run:
        run.wait_for_checkpoint()
        fault_at = time.time()
        victim.lose_power()
        try:
            seconds = seconds_to_recover(run, fault_at)
        finally:
            drills.cluster.start_node(victim)
        run.wait_for("training on both hosts", lambda: run.events("resized"))
        again = run.events("resized")[0]["step"] - run.step()
        drills.judge(
            "a host goes and comes back: 2 -> 1 -> 2 workers",
            run,
            recovery_s=seconds,
            redone=num_redone(run) + again,
            steps=MOST_STEPS,
        )
    assert [event["workers"] for event in run.events("workers", "resized")] == [2, 1, 2]


def test_a_host_is_cut_off_for_a_while(drills: Drills) -> None:
    with drills.run("cut", *ELASTIC) as run:
        run.wait_for_checkpoint()
        victim, fault_at = host_of_rank_0(drills.cluster.nodes), time.time()
        victim.cut()
        try:
            time.sleep(40)
        finally:
            victim.heal()
        try:
            seconds = seconds_to_recover(run, fault_at)
            drills.judge("the network of a host is cut for 40 s", run, recovery_s=seconds, redone=num_redone(run))
        finally:
            drills.cluster.restart(victim)


def test_a_host_is_taken_away_after_a_notice(drills: Drills) -> None:
    victim = drills.cluster.nodes[-1]
    with drills.run("preempted", *ELASTIC, steps=MOST_STEPS) as run:
        run.wait_for_checkpoint()
        fault_at = time.time()
        drills.cluster.drain(victim, DEADLINE_S)
        try:
            run.wait_for("the notice", lambda: run.events("preemption notice"))
            time.sleep(max(0.0, fault_at + DEADLINE_S - time.time()))
            victim.lose_power()
            seconds = seconds_to_recover(run, fault_at)
            drills.judge(
                f"a host is taken away {DEADLINE_S} s after a notice",
                run,
                recovery_s=seconds,
                redone=num_redone(run),
                steps=MOST_STEPS,
            )
        finally:
            drills.cluster.restart(victim)
    (failed,) = run.events("failed")
    assert failed["detail"].startswith("preemption"), failed
