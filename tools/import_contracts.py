"""Import contracts that import-linter does not bring: one vendor's SDK in one module, and packages that stand alone."""

from __future__ import annotations

import sys

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class OneImporter(Contract):
    """Each of these vendors' packages is imported by one module at most."""

    vendors = fields.SetField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: ARG002  # import-linter's signature
        importers = {vendor: sorted(_importers(graph, str(vendor))) for vendor in sorted(map(str, self.vendors))}  # type: ignore[call-overload]  # a field reads as its value
        broken = {vendor: modules for vendor, modules in importers.items() if len(modules) > 1}
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for vendor, modules in check.metadata["broken"].items():
            output.print_error(f"{vendor} is imported by {', '.join(modules)}; one module should hold it.")


class StandsAlone(Contract):
    """These packages and modules import the standard library and one another only, directly or through others."""

    modules = fields.SetField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: ARG002  # import-linter's signature
        inside: set[str] = set()
        for root in map(str, self.modules):  # type: ignore[call-overload]  # a field reads as its value
            inside |= {root} | graph.find_descendants(root)
        broken = [
            f"{module} imports {imported}"
            for module in sorted(inside)
            for imported in sorted(graph.find_modules_directly_imported_by(module))
            if imported not in inside and imported.partition(".")[0] not in sys.stdlib_module_names
        ]
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for sentence in check.metadata["broken"]:
            output.print_error(sentence)


def _importers(graph: ImportGraph, vendor: str) -> set[str]:
    return graph.find_modules_that_directly_import(vendor) if vendor in graph.modules else set()
