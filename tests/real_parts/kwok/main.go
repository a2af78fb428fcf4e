// Command kwok is kwok, and beside it what the API server asks of its nodes' kubelets: the first argument names the part.
//
// kwok says of pods that they run and that they have ended. Its own kubelet follows a file where it is attached to, and never
// takes what is sent; so nodes name this one, which takes all of a pod's standard input, and prints the same lines for each pod.
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	constants "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	remotecommandclient "k8s.io/client-go/tools/remotecommand"
	"k8s.io/kubelet/pkg/cri/streaming/remotecommand"
	"sigs.k8s.io/kwok/pkg/config"
	"sigs.k8s.io/kwok/pkg/kwok/cmd"
	kwoklog "sigs.k8s.io/kwok/pkg/log"
	"sigs.k8s.io/kwok/pkg/utils/signals"
)

const (
	patience = 10 * time.Second
	idle     = 4 * time.Hour
)

func main() {
	if len(os.Args) < 2 {
		log.Fatal("usage: kwok PART [ARGUMENT...]")
	}
	part := os.Args[1]
	os.Args = append(os.Args[:1], os.Args[2:]...)
	ctx := signals.SetupSignalContext()
	var err error
	switch part {
	case "kwok":
		err = controller(ctx)
	case "kubelet":
		err = kubelet(ctx)
	default:
		err = fmt.Errorf("no part is called %q", part)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func controller(ctx context.Context) error {
	flags := pflag.NewFlagSet("global", pflag.ContinueOnError)
	flags.ParseErrorsWhitelist.UnknownFlags = true
	flags.Usage = func() {}
	ctx, _ = kwoklog.InitFlags(ctx, flags)
	ctx, err := config.InitFlags(ctx, flags)
	if err != nil {
		return err
	}
	command := cmd.NewCommand(ctx)
	command.PersistentFlags().AddFlagSet(flags)
	return command.ExecuteContext(ctx)
}

// pods is what is known of each pod, by namespace and name.
type pods struct {
	mutex sync.Mutex
	known map[string]*pod
}

type pod struct {
	uid   types.UID
	role  string
	made  time.Time
	ended chan struct{}
	over  bool
}

func (p *pods) see(label string, thing interface{}, gone bool) {
	if tomb, is := thing.(cache.DeletedFinalStateUnknown); is {
		thing = tomb.Obj
	}
	seen, is := thing.(*corev1.Pod)
	if !is {
		return
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	key := seen.Namespace + "/" + seen.Name
	found := p.known[key]
	if found == nil || found.uid != seen.UID {
		if gone {
			return
		}
		found = &pod{uid: seen.UID, role: seen.Labels[label], made: seen.CreationTimestamp.Time, ended: make(chan struct{})}
		p.known[key] = found
	}
	phase := seen.Status.Phase
	if (gone || phase == corev1.PodSucceeded || phase == corev1.PodFailed) && !found.over {
		found.over = true
		close(found.ended)
	}
	if gone {
		delete(p.known, key)
	}
}

// find waits for what the API server may have told its asker before it told us.
func (p *pods) find(ctx context.Context, key string) *pod {
	for until := time.Now().Add(patience); time.Now().Before(until) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		p.mutex.Lock()
		found := p.known[key]
		p.mutex.Unlock()
		if found != nil {
			return found
		}
	}
	return nil
}

// AttachContainer takes all of the standard input.
func (p *pods) AttachContainer(_ context.Context, _ string, _ types.UID, _ string, in io.Reader, _, _ io.WriteCloser,
	_ bool, _ <-chan remotecommandclient.TerminalSize) error {
	if in == nil {
		return nil
	}
	_, err := io.Copy(io.Discard, in)
	return err
}

func (p *pods) attach(answer http.ResponseWriter, request *http.Request) {
	options, err := remotecommand.NewOptions(request)
	if err != nil {
		http.Error(answer, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeAttach(answer, request, p, request.PathValue("pod"), "", request.PathValue("container"), options,
		idle, patience, constants.SupportedStreamingProtocols)
}

func (p *pods) print(printed string) http.HandlerFunc {
	return func(answer http.ResponseWriter, request *http.Request) {
		found := p.find(request.Context(), request.PathValue("namespace")+"/"+request.PathValue("pod"))
		if found == nil {
			http.Error(answer, "no such pod", http.StatusNotFound)
			return
		}
		content, err := os.ReadFile(filepath.Join(printed, found.role))
		if err != nil {
			http.Error(answer, err.Error(), http.StatusInternalServerError)
			return
		}
		stamp := ""
		if request.URL.Query().Get("timestamps") == "true" {
			stamp = found.made.UTC().Format("2006-01-02T15:04:05.000000000Z") + " "
		}
		for _, line := range strings.Split(strings.TrimSuffix(string(content), "\n"), "\n") {
			fmt.Fprintf(answer, "%s%s\n", stamp, line)
		}
		answer.(http.Flusher).Flush()
		if request.URL.Query().Get("follow") == "true" {
			select {
			case <-found.ended:
			case <-request.Context().Done():
			}
		}
	}
}

func kubelet(ctx context.Context) error {
	kubeconfig := flag.String("kubeconfig", "", "how the API server is reached")
	listen := flag.String("listen", "", "the address and port that nodes name")
	certificate, key := flag.String("cert", "", "of this server"), flag.String("key", "", "of this server")
	label := flag.String("label", "", "which pods it has")
	printed := flag.String("printed", "", "directory with what pods print: a file for each value of the label")
	flag.Parse()
	access, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(access)
	if err != nil {
		return err
	}
	those := informers.WithTweakListOptions(func(options *metav1.ListOptions) { options.LabelSelector = *label })
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, those)
	known := &pods{known: map[string]*pod{}}
	_, err = factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(thing interface{}) { known.see(*label, thing, false) },
		UpdateFunc: func(_, thing interface{}) { known.see(*label, thing, false) },
		DeleteFunc: func(thing interface{}) { known.see(*label, thing, true) },
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	routes := http.NewServeMux()
	routes.HandleFunc("/attach/{namespace}/{pod}/{container}", known.attach)
	routes.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", known.print(*printed))
	server := &http.Server{Addr: *listen, Handler: routes, TLSConfig: &tls.Config{ClientAuth: tls.RequireAnyClientCert}}
	server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){} // an attached connection is taken over, which HTTP/2 can't
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := server.ListenAndServeTLS(*certificate, *key); err != http.ErrServerClosed {
		return err
	}
	return nil
}
