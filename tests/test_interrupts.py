"""Ctrl-C while RDKit matches: each reaches Python, and no score is what an interrupted match has found."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from genflow.interrupts import interrupts_for_python

#: scores one molecule by a slow match, again and again, under interrupts from outside
SCRIPT = """
import sys, time
from genflow.interrupts import interrupts_for_python
from contextlib import nullcontext

mode, tries = sys.argv[1], int(sys.argv[2])
with interrupts_for_python() if mode == "command" else nullcontext():
    import torch
    if mode == "command":
        torch.set_num_threads(4)
        torch.randn(10**6).exp()  # threads of torch's, which could take the signal
    from rdkit import Chem
    from genflow import Reward
    from genflow.training.loop import graceful_stop
    from genflow_molecule.scoring import Scorer

    BALL = ("c12c3c4c5c1c1c6c7c2c2c8c3c3c9c4c4c%10c5c5c1c1c6c6c%11c7c2c2c7c8c3c3c8c9c4c4c9c%10c5c5c1c1c6"
            "c6c%11c2c2c7c3c3c8c4c4c9c5c1c1c6c2c3c41")
    PATH = Chem.MolFromSmarts("~".join("*" * 9))

    class Paths(Reward):
        environment = "molecule"

        def score(self, objects):
            return [len(mol.GetSubstructMatches(PATH, uniquify=False, maxMatches=10**6)) / 10**5
                    for mol in objects]

    clean = Scorer(Paths()).scores([BALL])
    for number in range(tries):
        found, stopped = [], False
        with graceful_stop() if number % 2 else nullcontext() as stop:
            print("go", flush=True)
            try:
                for _ in range(100):
                    scores = Scorer(Paths())
                    found += scores.scores([BALL])
                    if stop is not None and stop.requested:
                        raise KeyboardInterrupt
            except KeyboardInterrupt:
                stopped = True
        print("stopped" if stopped else "swallowed", flush=True)
        assert {*found, *scores.scores([BALL])} == {*clean}, "a wrong score"
"""


@pytest.mark.parametrize("mode", ["command", "library"])
def test_each_interrupt_of_a_match_stops_and_none_is_a_score(mode):
    tries, draw = 12, random.Random(0)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, mode, str(tries)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for _ in range(tries):
        assert process.stdout.readline() == "go\n", process.stderr.read()
        time.sleep(draw.uniform(0.02, 0.3))
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "stopped\n"
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and "interrupted" not in said, said


def test_what_was_blocked_before_is_so_again_and_the_inner_of_two_does_nothing():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with pytest.raises(KeyboardInterrupt), interrupts_for_python():
        with interrupts_for_python():
            assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        signal.raise_signal(signal.SIGINT)  # to this thread alone: it waits until it is let through
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
