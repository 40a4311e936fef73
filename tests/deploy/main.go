// Command deploy loads what is written for others to run, with the parsers of those who run it: the compose file with
// Compose's own loader, the Kubernetes base with kustomize, and each object strictly into its published type, so that
// a misspelt field is an error. Run by `make deploy-check` from the project's root.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sort"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := errors.Join(compose("docker-compose.yml"), kubernetes("deploy/kubernetes")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// compose loads the file with every profile, checks what the file promises in its comments, and prints the project
// as JSON, for the test that runs its services.
func compose(path string) error {
	options, err := cli.NewProjectOptions([]string{path}, cli.WithProfiles([]string{"*"}))
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	var wrong []error
	for name, service := range project.Services {
		for _, problem := range problems(service) {
			wrong = append(wrong, fmt.Errorf("%s: service %s: %s", path, name, problem))
		}
	}
	text, err := project.MarshalJSON()
	if err != nil {
		return err
	}
	fmt.Println(string(text))
	return errors.Join(wrong...)
}

func problems(service types.ServiceConfig) (found []string) {
	for _, port := range service.Ports {
		if port.HostIP != "127.0.0.1" {
			found = append(found, "port "+port.Published+" is open to the network")
		}
	}
	if service.Deploy == nil || service.Deploy.Resources.Limits == nil {
		found = append(found, "has no limits")
	}
	if len(service.Profiles) > 0 {
		return found // Run by hand: nothing waits for it, nothing restarts it.
	}
	if service.HealthCheck == nil {
		found = append(found, "has no health check")
	}
	if service.StopGracePeriod == nil {
		found = append(found, "has no stop_grace_period")
	}
	return found
}

// kubernetes renders the base and decodes each object into its type, unknown fields refused.
func kubernetes(path string) error {
	rendered, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	kinds := map[string]func() any{
		"v1/Namespace":                            func() any { return &core.Namespace{} },
		"v1/Service":                              func() any { return &core.Service{} },
		"v1/ServiceAccount":                       func() any { return &core.ServiceAccount{} },
		"apps/v1/Deployment":                      func() any { return &apps.Deployment{} },
		"policy/v1/PodDisruptionBudget":           func() any { return &policy.PodDisruptionBudget{} },
		"autoscaling/v2/HorizontalPodAutoscaler":  func() any { return &autoscaling.HorizontalPodAutoscaler{} },
		"networking.k8s.io/v1/NetworkPolicy":      func() any { return &networking.NetworkPolicy{} },
		"monitoring.coreos.com/v1/ServiceMonitor": func() any { return &monitoring.ServiceMonitor{} },
		"monitoring.coreos.com/v1/PrometheusRule": func() any { return &monitoring.PrometheusRule{} },
	}
	var wrong []error
	seen := map[string]bool{}
	for _, resource := range rendered.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			return err
		}
		var head struct{ APIVersion, Kind string }
		if err := yaml.Unmarshal(text, &head); err != nil {
			return err
		}
		kind := head.APIVersion + "/" + head.Kind
		seen[kind] = true
		made, known := kinds[kind]
		if !known {
			wrong = append(wrong, fmt.Errorf("%s: %s: nobody here knows this kind", path, kind))
			continue
		}
		object := made()
		if err := strictly(text, object); err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %s %s: %w", path, kind, resource.GetName(), err))
		}
		if deployment, is := object.(*apps.Deployment); is && len(deployment.Spec.Selector.MatchLabels) == 0 {
			wrong = append(wrong, fmt.Errorf("%s: the deployment selects nothing", path))
		}
	}
	for kind := range kinds {
		if !seen[kind] {
			wrong = append(wrong, fmt.Errorf("%s: no %s", path, kind))
		}
	}
	sort.Slice(wrong, func(i, j int) bool { return wrong[i].Error() < wrong[j].Error() })
	fmt.Fprintf(os.Stderr, "%s: %d objects\n", path, len(rendered.Resources()))
	return errors.Join(wrong...)
}

func strictly(text []byte, into any) error {
	converted, err := yaml.YAMLToJSON(text)
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(converted))
	decoder.DisallowUnknownFields()
	return decoder.Decode(into)
}
