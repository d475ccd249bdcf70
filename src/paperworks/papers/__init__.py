"""One folder a paper: its card, its claims and its command.

Folders named by the environment variable ``PAPERWORKS_PAPERS`` hold further papers, such as a group's own.
"""

from paperworks.catalog import folders

__path__ = [str(folder) for folder in folders()]
