"""Pusher: TFX's, pushing atomically into the serving folder."""
