"""Streamlit pages, which read through infra only."""
