"""The built-in trackers, each with an extra for what it needs: TensorBoard's event files, and trackio."""

import genflow


@genflow.hookimpl
def register_trackers(register):
    """tensorboard and trackio."""
    register("tensorboard", "genflow_trackers.tensorboard:TensorBoard")
    register("trackio", "genflow_trackers.trackio:Trackio")
