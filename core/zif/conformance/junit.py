"""The report as JUnit's XML, which continuous integration reads."""

from __future__ import annotations

from xml.etree import ElementTree

from zif.conformance.results import Report


def as_junit(report: Report) -> str:
    """A test suite a section, a test case a check. A failure has what was wrong, the suspect and the command."""
    root = ElementTree.Element("testsuites", name=f"zif check {report.device}")
    for section in dict.fromkeys(result.section for result in report.results):
        results = [result for result in report.results if result.section == section]
        failed, skipped = (sum(r.status in which for r in results) for which in (("fail",), ("skip", "waived")))
        suite = ElementTree.SubElement(
            root, "testsuite", name=section, tests=str(len(results)), failures=str(failed), skipped=str(skipped)
        )
        for result in results:
            case = ElementTree.SubElement(
                suite, "testcase", classname=f"{section}.{result.subject}", name=result.case or result.subject,
                time=f"{result.seconds or 0:.3f}",
            )  # fmt: skip
            if result.status == "fail":
                said = f"suspect: {result.suspect or 'unknown'}\nagain: {report.command(result)}"
                ElementTree.SubElement(case, "failure", message=result.detail).text = said
            elif result.status != "pass":
                ElementTree.SubElement(case, "skipped", message=result.detail)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
