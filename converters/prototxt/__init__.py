"""Prototxt: text to messages and back, old files brought up to date, rules on messages."""
