"""What a study says of a file in a Python package, for data and models alike."""

from scripts.components.part import Part, field


class InWheel(Part):
    """A file in the wheel of a Python package, which is read as an archive and never installed."""

    package: str = field("its name on the package index", pattern=r"^[a-z0-9]+([-._][a-z0-9]+)*$")
    version: str = field("which of its versions is downloaded", pattern=r"^[0-9][0-9A-Za-z.]*$")
    member: str = field("path of the file inside the package's wheel", min_length=1)

    @property
    def release(self) -> str:
        """The package at its version."""
        return f"{self.package}=={self.version}"
