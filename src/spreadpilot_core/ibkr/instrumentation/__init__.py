"""OpenTelemetry behind the seam `Instrumentation`: what is measured, how it leaves the process, and where it is scraped."""
