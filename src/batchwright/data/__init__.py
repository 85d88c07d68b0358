"""Readers, synthetic problems with known answers, and samplers whose batch size may change."""
