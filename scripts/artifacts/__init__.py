"""Figures and tables: data first (a CSV), drawing second (PDF and PNG)."""
