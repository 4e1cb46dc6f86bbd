"""The documentation site: what mkdocs.yml builds besides the pages of docs/."""
