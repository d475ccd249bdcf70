"""Blockwise variance-reduced methods for bilevel problems of many blocks."""
